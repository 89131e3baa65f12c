"""`lmms-eval --model visor_jax`: its own evaluation, offline, beside `evaluate`.

The same rows, the same network, two budgets: every answer and every score. No score
can be right by chance: answers are those of a network with random parameters.
"""

import contextlib
import json

import pytest

from tests import own_flags
from tests.evals.lmms_eval import local_tasks
from tests.evals.lmms_eval.local_tasks import BUDGETS

pytest.importorskip("lmms_eval", reason=local_tasks.REASON)
pytest.importorskip("pyarrow")

from visor_jax import evaluate
from visor_jax.commands import benchmark_flags
from visor_jax.inference.engine.engine import Engine

# {benchmark: (lmms-eval's metric, the figure here, what theirs is multiplied by)}.
ASKED = {
    "docvqa": ("anls", "anls", 1),
    "mmbench": ("gpt_eval_score", "circular_accuracy", 1 / 100),
    "mmmu": ("mmmu_acc", "accuracy", 1),
    # A task of our own, `SHAPES` below.
    "gqa": ("exact_match", "exact_match", 1),
}
# MMBench's answers may be that long.
LONGEST = 1024
# Whole circles of MMBench; of MMMU open questions, and one about two pictures.
ROWS = (0, 1, 2, 10, 11, 12)
SHAPES = """
task: local_gqa
dataset_path: parquet
dataset_kwargs: {data_files: {testdev: FILE}}
test_split: testdev
output_type: generate_until
doc_to_visual: !function shapes.pictures
doc_to_text: !function shapes.prompt
doc_to_target: answer
generation_kwargs: {max_new_tokens: 16, do_sample: false}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: true
"""
FUNCTIONS = """
def pictures(doc):
    return [doc["image"].convert("RGB")]


def prompt(doc):
    return doc["question"] + "\\nAnswer the question using a single word or phrase."
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    local_tasks.offline(folder)
    for name in ASKED:
        rows = local_tasks.rows(name, harder=False)
        local_tasks.write_hub(name, folder, [rows[n] for n in ROWS])
    return folder


@pytest.fixture(scope="module")
def tasks(data, tmp_path_factory):
    """Returns a folder of lmms-eval's tasks, and one of our own."""
    folder = tmp_path_factory.mktemp("tasks")
    files = {name: next((data / name).glob("*.parquet")) for name in ASKED}
    shapes = SHAPES.replace("FILE", str(files.pop("gqa")))
    local_tasks.write_tasks(files, folder)
    (folder / "local_gqa.yaml").write_text(shapes)
    (folder / "shapes.py").write_text(FUNCTIONS)
    return folder


@pytest.fixture
def evaluated(network, tasks, tmp_path, monkeypatch):
    """Returns a function that has lmms-eval evaluate tasks; their files go away."""
    import pandas
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager
    from lmms_eval.tasks._task_utils import mmmu_mcq_utils

    monkeypatch.chdir(tmp_path)
    # What it cannot read is wrong here, and an option by chance there.
    monkeypatch.setattr(mmmu_mcq_utils.random, "choice", lambda letters: "none")
    # MMBench's submission: openpyxl refuses what such answers hold.
    monkeypatch.setattr(pandas, "ExcelWriter", contextlib.nullcontext)
    monkeypatch.setattr(pandas.DataFrame, "to_excel", lambda *rows, **options: None)
    manager = TaskManager("ERROR", include_path=str(tasks), include_defaults=False)

    def run(names, arguments, **options):
        given = f"pretrained={network},chat_template=hub,rows=2,slots=8,{arguments}"
        return simple_evaluate(
            "visor_jax",
            model_args=given,
            tasks=[f"local_{name}" for name in names],
            task_manager=manager,
            batch_size="1",
            bootstrap_iters=0,
            log_samples=True,
            verbosity="ERROR",
            **options,
        )

    return run


def own(network, data, output, budget, monkeypatch):
    """Returns the lines of `evaluate`, by benchmark and prompt, and its scores.

    One engine asks all, of the plug-in's sizes: programs are compiled once.
    """
    before, engines = benchmark_flags._engine, []

    def engine(*arguments):
        *others, _ = arguments
        if not engines:
            engines.append(before(*others, LONGEST))
        return engines[0]

    monkeypatch.setattr(benchmark_flags, "_engine", engine)
    own_flags.call(
        evaluate,
        *(f"--checkpoint={network}", f"--benchmarks={','.join(ASKED)}"),
        *(f"--data={data}", f"--output={output}", f"--budget={budget}"),
        *("--rows=2", "--slots=8", "--chat_template=hub"),
    )
    found = {}
    for name in ASKED:
        texts = (output / f"{name}.jsonl").read_text().splitlines()
        found[name] = {line["prompt"]: line for line in map(json.loads, texts)}
    return found, json.loads((output / "scores.json").read_text())


def counted(monkeypatch):
    """Returns a list that gets how many requests each call gave the engine."""
    calls = []
    before = Engine.answers

    def answers(engine, requests, **options):
        given = list(requests)
        calls.append(len(given))
        return before(engine, given, **options)

    monkeypatch.setattr(Engine, "answers", answers)
    return calls


@pytest.mark.parametrize("budget", BUDGETS)
def test_answers_and_scores_are_those_of_evaluate(
    budget, evaluated, network, data, tmp_path, monkeypatch, capsys
):
    calls = counted(monkeypatch)
    found = evaluated(ASKED, f"budget='{budget}'", force_simple=True)
    # All tasks' requests at once.
    assert calls == [len(ROWS) * len(ASKED)]
    lines, scores = own(network, data, tmp_path / "out", budget, monkeypatch)
    said = set()
    for name, (metric, figure, unit) in ASKED.items():
        samples = found["samples"][f"local_{name}"]
        assert len(samples) == len(ROWS) == len(lines[name])
        for sample in samples:
            line = lines[name][sample["arguments"][0]]
            assert line["error"] is None
            assert line["used"] == budget
            (answer,) = sample["filtered_resps"]
            assert answer == line["answer"]
            said.add(answer)
            (counts,) = sample["token_counts"]
            read = line["text_tokens"] + line["image_tokens"]
            assert counts == {
                "input_tokens": read,
                "output_tokens": line["new_tokens"],
            }
        theirs = found["results"][f"local_{name}"][f"{metric},none"] * unit
        (mine,) = (f for f in scores[name]["figures"] if f["name"] == figure)
        assert mine["value"] == pytest.approx(theirs, abs=1e-5)
    assert len(said) > 3


def test_the_chat_form_asks_with_pictures_where_a_task_has_them(evaluated, monkeypatch):
    asked = []

    def answers(engine, requests, **options):
        asked.extend(requests)
        return iter(())

    monkeypatch.setattr(Engine, "answers", answers)
    found = evaluated(["mmmu"], "budget=all")
    assert len(found["samples"]["local_mmmu"]) == len(asked) == len(ROWS)
    # "Which of <image 3> and <image 1> is 2, said <image 1>?", and four options.
    (message,) = asked[2].messages()
    texts = [part.get("text") for part in message["content"]]
    assert texts[:4] == ["Which of", None, "and", None]
    assert texts[4].startswith("?\nA. thing 2x")
    colours = [p["url"].getpixel((0, 0)) for p in message["content"] if "url" in p]
    # Pictures stand in the order of their numbers, wherever they are mentioned.
    assert colours == [(2, 4, 253), (3, 6, 252)]
