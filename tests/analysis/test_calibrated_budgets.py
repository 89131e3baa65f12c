"""Budgets of a network that nobody trained for them: measured, kept, and used."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import visor_jax
from tests.data import tiny_llava
from tests.inference import chat_run, page_run
from visor_jax import sweep
from visor_jax.analysis import calibrated_budgets
from visor_jax.analysis.divergence import Divergence
from visor_jax.budget import Budget
from visor_jax.commands.calibration_prompts import calibration_prompts
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.request import Request
from visor_jax.flops.account import account

TILE = 56
SIZES = ((60, 100), (120, 50), (56, 56))
PROMPTS = ("Why?", "What is it?", "Where?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns the folder of a network of Hugging Face, and requests beside it."""
    hf = chat_run.save(tmp_path_factory.mktemp("dense"), TILE)
    lines = []
    for (height, width), prompt in zip(SIZES, PROMPTS, strict=True):
        name = f"{height}x{width}.png"
        picture = tiny_llava.random_image(height, width)
        Image.fromarray(picture).save(hf.parent / name)
        lines.append(json.dumps({"image": name, "prompt": prompt}))
    (hf.parent / "in.jsonl").write_text("\n".join(lines))
    return hf


@pytest.fixture(scope="module")
def model(folder):
    return visor_jax.load(folder)


@pytest.fixture(scope="module")
def found(folder):
    out = folder.parent / "out"
    how = {"out": str(out), "limit": 20, "margin": 0.0}
    return sweep.calibrate_checkpoint(
        str(folder), str(folder.parent / "in.jsonl"), **how
    )


def log_probs(model, folder, budget):
    """Returns those of the next token behind each prompt, in float64."""
    rows = []
    for (height, width), prompt in zip(SIZES, PROMPTS, strict=True):
        picture = str(folder.parent / f"{height}x{width}.png")
        batch = model.batch(picture, prompt)
        gates = budget.gates(model.config.plan)
        output = jax.jit(model.vlm.apply, static_argnums=2)(
            {"params": model.params}, batch.map(np.asarray), gates
        )
        last = np.asarray(output.logits[0], np.float64)[batch.text_mask[0]][-1]
        rows.append(last - np.log(np.sum(np.exp(last - last.max()))) - last.max())
    return np.array(rows)


def test_what_is_measured_is_the_divergence_from_everything_on(found, model, folder):
    done, _ = found
    everything = log_probs(model, folder, Budget.all(model.config.plan))
    assert len(done.scored) > 4
    for each in done.scored[:5]:
        other = log_probs(model, folder, each.budget)
        expected = np.mean(np.sum(np.exp(everything) * (everything - other), axis=-1))
        assert each.details["divergence"] == pytest.approx(expected, abs=2e-5)
    assert done.scored[0].details["divergence"] == 0


def test_costs_are_those_of_the_prompts_without_padding(found, model):
    done, _ = found
    samples = [
        model.processor.sample(Request(prompt, tiny_llava.random_image(*size)), room=1)
        for size, prompt in zip(SIZES, PROMPTS, strict=True)
    ]
    for each in done.scored[:3]:
        flops = [
            account(
                model.config,
                each.budget,
                text_tokens=sample.num_text_tokens,
                image_tokens=sample.num_image_tokens,
                crops=0,
                logit_positions=1,
            ).llm_prefill
            for sample in samples
        ]
        assert each.cost == pytest.approx(np.mean(flops))


def test_a_network_answers_at_what_the_file_says(found, model, folder):
    done, file = found
    dearest = max(each.cost for each in done.viable)
    cheap = [each for each in done.viable if each.cost <= 0.8 * dearest]
    best = max(cheap, key=lambda each: each.score).budget
    assert best != Budget.all(model.config.plan)
    picture = tiny_llava.random_image(60, 100)
    named = f"@{file}:0.8"
    assert model.budget(named) == best
    answer = model.generate(picture, "Why?", named, max_new_tokens=4)
    (by_engine,) = model.engine(named).answer_all(
        [Request("Why?", picture)], max_new_tokens=4
    )
    assert (by_engine.text, by_engine.budget) == (answer, best)
    with pytest.raises(ValueError, match="not trained for"):
        model.generate(picture, "Why?", best.name)


def test_a_file_of_requests_is_answered_at_what_the_file_says(found, model, folder):
    _, file = found
    out = folder.parent / "out.jsonl"
    command = [
        *(sys.executable, "-m", "visor_jax.answer", f"--checkpoint={folder}"),
        *(f"--input={folder.parent}/in.jsonl", f"--output={out}"),
        *(f"--budget=@{file}:0.8", "--max_new_tokens=3"),
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    named = model.budget(f"@{file}:0.8").name
    assert [answer["budget"] for answer in answers] == [named] * 3
    # A request may be a stranger's, and opens no file.
    with pytest.raises(ValueError, match="is a file and no name of a budget"):
        AnswerOptions(budget=f"@{file}:0.8")


def test_a_run_that_was_stopped_measures_only_what_is_missing(
    found, folder, tmp_path, monkeypatch
):
    done, file = found
    kept = file.with_suffix(".measured.json")
    content = json.loads(kept.read_text())
    names = list(content["divergence"])
    assert len(names) == len(done.scored)
    for name in names[-2:]:
        del content["divergence"][name]
    (tmp_path / kept.name).write_text(json.dumps(content))
    measured = []
    divergence = calibrated_budgets.Divergence

    class Counted(divergence):
        def __call__(self, budgets):
            measured.extend(budgets)
            return super().__call__(budgets)

    monkeypatch.setattr(calibrated_budgets, "Divergence", Counted)
    how = {"out": str(tmp_path), "limit": 20, "margin": 0.0}
    arguments = str(folder), str(folder.parent / "in.jsonl")
    sweep.calibrate_checkpoint(*arguments, **how)
    assert sorted(each.name for each in measured) == sorted(names[-2:])
    assert (tmp_path / file.name).read_text() == file.read_text()
    with pytest.raises(ValueError, match=r"prompts': \(3, 2\).*another --name"):
        sweep.calibrate_checkpoint(*arguments, **how, prompts=2)


def test_other_pictures_under_the_same_names_are_measured_anew(folder, tmp_path):
    requests, picture = tmp_path / "in.jsonl", tmp_path / "a.png"
    requests.write_text(json.dumps({"image": "a.png", "prompt": "Why?"}))
    Image.fromarray(tiny_llava.random_image(60, 100)).save(picture)
    how = {"out": str(tmp_path), "limit": 5, "margin": 0.0}
    sweep.calibrate_checkpoint(str(folder), str(requests), **how)
    Image.fromarray(tiny_llava.random_image(56, 56)).save(picture)
    with pytest.raises(ValueError, match=r"pictures.*another --name"):
        sweep.calibrate_checkpoint(str(folder), str(requests), **how)


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", '{"settings": 1, "divergence": {}}', '{"settings": {}}'),
        '{"settings": {}, "divergence": [1]}',
        '{"settings": {}, "divergence": {"a": {}}}',
    ],
)
def test_damaged_measurements_are_named(tmp_path, content):
    file = tmp_path / "viable.measured.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"measured\.json is not readable.*remove it"):
        calibrated_budgets._Measured(file, {})


def test_requests_that_cannot_be_measured_are_named(folder, tmp_path, model):
    requests = tmp_path / "in.jsonl"
    lines = [{"prompt": "Why?"}, {"image": "gone.png", "prompt": "Why?"}]
    how = {"out": str(tmp_path / "out"), "limit": 20}
    requests.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=r"in\.jsonl: line 2: .*gone\.png"):
        sweep.calibrate_checkpoint(str(folder), str(requests), **how)
    requests.write_text(json.dumps(lines[0]))
    with pytest.raises(ValueError, match="None of the 1 prompts has an image"):
        sweep.calibrate_checkpoint(str(folder), str(requests), **how)


def test_a_network_that_computes_no_numbers_is_not_measured(model):
    image = tiny_llava.random_image(56, 56)
    samples = [model.processor.sample(Request("Why?", image), room=1)]
    params = jax.tree.map(lambda x: x, model.params)
    norm = params["language_model"]["norm"]
    norm["scale"] = norm["scale"].at[0].set(np.nan)
    broken = dataclasses.replace(model.network, params=params)
    with pytest.raises(ValueError, match=r"'sa3:0,1,2' cannot be .*norm/scale are not"):
        Divergence(broken, samples)([Budget.all(model.config.plan)])


def test_pages_are_asked_of_networks_that_read_them(tmp_path, model):
    network = visor_jax.load(page_run.save(tmp_path, page_run.parameters())).network
    requests, facts = calibration_prompts(network, "pages", 15, "policy")
    assert len(requests) == 15
    assert len({request.images[0].tobytes() for request in requests}) == 2
    assert (facts["data"], facts["split"]) == ("pages", "policy")
    with pytest.raises(ValueError, match="cannot answer the embedded benchmark"):
        calibration_prompts(model.network, "pages", 15, "policy")


def test_the_command_prints_what_pays(folder, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "visor_jax.sweep", f"--checkpoint={folder}"),
            *(f"--calibrate={folder.parent}/in.jsonl", f"--out={tmp_path}"),
            *("--limit=12", "--prompts=2"),
        ],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "budgets; viable ones with *" in lines[0]
    assert "cost 100.0 %  0.0000 nats" in lines[-3]
    assert lines[-1] == f"budgets: {tmp_path}/calibrated.json"
    refused = subprocess.run(
        [
            *(sys.executable, "-m", "visor_jax.sweep", "--checkpoint=gone/it"),
            "--calibrate=gone.jsonl",
        ],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2
    assert "gone/it is no folder to write budgets to: give --out" in refused.stderr
