"""`python -m visor_jax.generate`: its answer, its JSON line, its errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from PIL import Image

import visor_jax
from tests.inference import page_run
from visor_jax import generate
from visor_jax.data.prompts.processor import Processor
from visor_jax.flops.account import account

ROOT = Path(__file__).parents[1]
QUESTION = "largest digit row 1"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    Image.fromarray(page_run.page()).save(folder / "page.png")
    return page_run.save(folder, page_run.parameters())


def _arguments(workdir, **changes):
    given = {
        "checkpoint": workdir,
        "image": workdir / "page.png",
        "prompt": QUESTION,
        "budget": "sa1:1",
        **changes,
    }
    return [f"--{k}={v}" for k, v in given.items() if v is not None]


def _program(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "visor_jax.generate", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


def test_json_line_holds_answer_cost_and_time(workdir):
    done = _program(*_arguments(workdir), "--json")
    assert done.returncode == 0
    (started,) = done.stderr.splitlines()
    assert "attention auto; compiled programs in" in started
    (line,) = done.stdout.splitlines()
    report = json.loads(line)
    model = visor_jax.load(workdir)
    image = workdir / "page.png"
    answer = model.generate(image, QUESTION, "sa1:1")
    cost = model.cost("sa1:1")
    assert report["answer"] == answer
    assert (report["budget"], report["self_layers_on"]) == ("sa1:1", 1)
    assert report["flops"] == {
        "tower": cost.tower,
        "projector": cost.projector,
        "llm_prefill": cost.llm_prefill,
        "decode_per_token": cost.decode_per_token,
    }
    assert report["llm_saving"] == cost.llm_saving
    assert report["end_to_end_saving"] == cost.end_to_end_saving
    assert report["counted"] == {
        "text_tokens": 8,
        "image_tokens": 144,
        "crops": 1,
        "logit_positions": 1,
    }
    assert report["ms"]["prefill"] > 0
    assert report["ms"]["per_token"] > 0


def test_a_mistake_is_one_line_and_code_2(workdir):
    done = _program(*_arguments(workdir, image="gone.png"))
    assert (done.returncode, done.stdout) == (2, "")
    _started, line = done.stderr.splitlines()
    assert line.startswith("error: Cannot read the image 'gone.png'")


@pytest.fixture
def parse():
    """Gives the flags as the program declares them, to this process for one test."""
    before = set(flags.FLAGS)
    generate.define_flags()
    yield lambda arguments: flags.FLAGS(["generate", *arguments])
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


def test_plain_output_is_the_answer(workdir, parse, capsys):
    generate.main(parse(_arguments(workdir)))
    model = visor_jax.load(workdir)
    expected = model.generate(workdir / "page.png", QUESTION, "sa1:1")
    assert capsys.readouterr().out == expected + "\n"


def test_the_prompt_is_read_once(workdir, parse, capsys, monkeypatch):
    read, sample = [], Processor.sample

    def counted(self, request, **options):
        read.append(request.prompt)
        return sample(self, request, **options)

    monkeypatch.setattr(Processor, "sample", counted)
    generate.main(parse([*_arguments(workdir), "--json"]))
    assert read == [QUESTION]
    capsys.readouterr()


def test_a_cascade_says_how_sure_it_was_and_what_both_looks_cost(
    workdir, parse, capsys
):
    model, lengths = visor_jax.load(workdir), {"text_tokens": 8, "image_tokens": 144}
    image, answers = workdir / "page.png", {}
    for threshold in (5e-324, 1.0):
        budget = f"cascade:sa0,all@{threshold}"
        generate.main(parse([*_arguments(workdir, budget=budget), "--json"]))
        report = json.loads(capsys.readouterr().out)
        answers[report["budget"]] = report
        assert report["answer"] == model.generate(image, QUESTION, report["budget"])
        assert report["first_look"]["budget"] == "sa0"
        assert 0 < report["first_look"]["confidence"] < 1
        flags.FLAGS.unparse_flags()
    one, two = answers["sa0"], answers["sa2:1,2"]
    assert (one["looks"], two["looks"]) == (1, 2)
    assert one["flops"]["llm_prefill"] == model.cost("sa0").llm_prefill
    behind = account(
        page_run.CONFIG, model.budget("all"), crops=1, logit_positions=1, **lengths
    ).behind_trunk
    both = one["flops"]["llm_prefill"] + behind
    assert two["flops"]["llm_prefill"] == both
    dense = one["flops"]["llm_prefill"] * one["llm_saving"]
    assert two["llm_saving"] == pytest.approx(dense / both)
    assert two["flops"]["tower"] == one["flops"]["tower"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"checkpoint": "gone"}, "gone does not exist"),
        ({"checkpoint": "visor_jax"}, "is not a checkpoint"),
        ({"image": "setup.py"}, "'setup.py': it is damaged or no image"),
        ({"prompt": "what is it"}, "Unknown words ['what', 'is', 'it']"),
        ({"prompt": ""}, "question is empty"),
        ({"budget": "sa1:2"}, "choose one of sa0, sa1:1, sa2:1,2"),
        ({"budget": "big"}, "Unknown budget 'big'"),
        ({"budget": "auto"}, "budget='auto' needs a policy"),
        ({"cost": 2}, "cost=2.0 is for budget='auto'"),
    ],
)
def test_mistakes_end_before_any_work(
    workdir, parse, capsys, monkeypatch, changes, complaint
):
    monkeypatch.chdir(ROOT)
    arguments = parse(_arguments(workdir, **changes))
    with pytest.raises(SystemExit) as stopped:
        generate.main(arguments)
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert complaint in line


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": "many"}, "max_new_tokens"),
        ({"colour": "red"}, "colour"),
        ({"prompt": None}, "prompt"),
    ],
)
def test_unusable_flags_are_refused(workdir, parse, changes, complaint):
    with pytest.raises(flags.Error, match=complaint):
        parse(_arguments(workdir, **changes))
