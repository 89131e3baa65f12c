"""`reduce`: load, generate, answer, evaluate and engine answer as one network does."""

import dataclasses
import json

import pytest
from PIL import Image

import visor_jax
from tests import own_flags, tiny
from tests.evals import small
from tests.inference import page_run
from visor_jax import answer, evaluate, generate
from visor_jax.data.pages.questions import TASK_NAMES
from visor_jax.evals.checkpoints import AskedBudgets
from visor_jax.evals.harness import predict
from visor_jax.evals.pages.benchmark import PageBenchmark
from visor_jax.evals.policy_choices import questions_of_policies
from visor_jax.evals.report.markdown import report_text
from visor_jax.evals.report.report import ReportFacts, build_report
from visor_jax.flops.account import account
from visor_jax.inference.loading.open_network import open_network
from visor_jax.models.decoder.token_reducer import selection_flops
from visor_jax.token_reduction.fastv import FastV

QUESTION, SPEC = "largest digit row 1", "fastv:layer=1,keep=0.25"
METHOD = FastV(layer=1, keep=0.25)
_TRAINED = {"train_steps": 3, "wall_clock_s": 1.5, "data": {"kind": "pages"}}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    Image.fromarray(page_run.page()).save(folder / "page.png")
    return page_run.save(folder, page_run.parameters())


@pytest.fixture(scope="module")
def model(workdir):
    return visor_jax.load(workdir, reduce=SPEC)


def test_one_name_makes_one_network(workdir, model, capsys):
    whole, image = visor_jax.load(workdir), workdir / "page.png"
    assert model.network.reducer == METHOD
    assert model.network.reduce == SPEC
    assert SPEC in model._repr_html_()
    assert (whole.network.reduce, whole.fingerprint == model.fingerprint) == (
        None,
        False,
    )
    said = [f"--checkpoint={workdir}", f"--image={image}", f"--prompt={QUESTION}"]
    own_flags.call(generate, *said, "--budget=sa1:1", f"--reduce={SPEC}", "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["answer"] == model.generate(image, QUESTION, "sa1:1")
    assert report["reduce"] == SPEC
    cost = model.cost("sa1:1")
    assert report["flops"]["llm_prefill"] == cost.llm_prefill
    lengths = {"text_tokens": 8, "image_tokens": 144}
    own = selection_flops(METHOD, page_run.CONFIG, **lengths)
    counted = account(
        page_run.CONFIG,
        model.budget("sa1:1"),
        **lengths,
        crops=1,
        logit_positions=1,
        image_lengths=(144, 36, 36),
        selection=own,
    )
    assert cost.llm_prefill == counted.llm_prefill < whole.cost("sa1:1").llm_prefill


def test_a_file_of_answers_is_of_one_reduction(workdir, model, capsys):
    lines = [{"id": i, "image": "page.png", "prompt": QUESTION} for i in range(2)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "requests.jsonl").write_text(text)
    output = workdir / "answers.jsonl"
    said = [f"--checkpoint={workdir}", f"--input={workdir / 'requests.jsonl'}"]
    said += [f"--output={output}", "--budget=sa1:1"]
    own_flags.call(answer, *said, f"--reduce={SPEC}")
    (one, two) = map(json.loads, output.read_text().splitlines())
    assert one["reduce"] == two["reduce"] == SPEC
    assert one["answer"] == model.generate(workdir / "page.png", QUESTION, "sa1:1")
    # What no question has touched yet is at hand: tokens, and layer 0's keys of them.
    assert one["answer"] == two["answer"]
    assert two["image_reused"]
    settings = json.loads((workdir / "answers.jsonl.settings.json").read_text())
    assert settings["reduce"] == SPEC
    for other in ([], ["--reduce=fastv:layer=1,keep=0.5"]):
        with pytest.raises(SystemExit) as stopped:
            own_flags.call(answer, *said, *other)
        assert stopped.value.code == 2
        assert f'reduce was "{SPEC}", now' in capsys.readouterr().err


def test_a_report_says_what_reduced_its_images(workdir, tmp_path):
    place = page_run.save(tmp_path / "run", page_run.parameters(), **_TRAINED)
    how = ([str(place)], None, 1, AskedBudgets(universal="sa1:1"), "test", None, SPEC)
    (checkpoint,), _ = evaluate._prepare(*how)
    assert checkpoint.network.reducer == METHOD
    benchmark = PageBenchmark.make(1)
    found = predict(checkpoint.network, benchmark, checkpoint.budgets)
    assert (found.reducer, len(found.ids)) == (SPEC, len(TASK_NAMES))
    # One question a row, in the lengths of its own, without an answer.
    (budget,), lengths = checkpoint.budgets, found.mean_lengths()
    assert lengths["text_tokens"] < 10
    whole = account(page_run.CONFIG, budget, **lengths, logit_positions=1)
    assert found.mean_flops(budget)["llm_prefill"] < whole.llm_prefill
    run = small.made_up_run(benchmark, "universal")
    run = dataclasses.replace(
        run, predictions=dataclasses.replace(run.predictions, reducer=SPEC)
    )
    made = ReportFacts(git_commit="", machine="", command="")
    report = build_report([run], made)
    assert report["reduce"] == SPEC
    assert f"reduced by `{SPEC}`" in report_text(report, run.predictions)


def test_several_questions_in_a_row_are_refused_before_any_work(model):
    with pytest.raises(ValueError, match=f"{SPEC} chooses image tokens by one"):
        questions_of_policies(PageBenchmark.make(1), METHOD)
    batch = tiny.random_batch(
        page_run.CONFIG, [tiny.Sample(image=9, questions=(4, 3))], crops=1
    )
    with pytest.raises(ValueError, match="several questions in a row, but"):
        model.logits_of(batch, "sa1:1")


@pytest.mark.parametrize(
    ("reduce", "said"),
    [
        ("fastvee", "Unknown token reduction 'fastvee'"),
        ("fastv:layer=3", "fastv:layer=3: .* layer 3, .* are 0 to 2"),
        ("pyramiddrop:layers=1+2+9", "layer 9, .* are 0 to 2"),
        (7, "reduce=7 is no token reduction"),
    ],
)
def test_what_cannot_be_is_said_before_weights_are_read(
    workdir, reduce, said, monkeypatch
):
    monkeypatch.setattr(
        "visor_jax.checkpoints.stored_network.StoredNetwork.read_params", None
    )
    with pytest.raises(ValueError, match=said):
        open_network(workdir, reduce=reduce)
