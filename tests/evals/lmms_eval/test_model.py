"""`lmms-eval --model visor_jax`: its own evaluation, offline, beside `evaluate`.

The same rows, the same network, two budgets: every answer and every score. No score
can be right by chance: answers are those of a network with random parameters.
"""

import contextlib
import functools
import importlib.metadata
import json

import jax
import pytest

from tests import own_flags
from tests.data import tiny_llava
from tests.data.prompts import prompt_cases
from tests.evals.lmms_eval import local_tasks
from tests.inference import chat_run

pytest.importorskip("lmms_eval", reason=local_tasks.REASON)
pytest.importorskip("pyarrow")

from visor_jax import evaluate
from visor_jax.commands import benchmark_flags
from visor_jax.evals.lmms_eval import model as plug_in
from visor_jax.evals.lmms_eval.manifest import manifest
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.loading import load
from visor_jax.runtime.user_error import UserError

BUDGETS = ("sa1:1", "sa3:0,1,2")
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


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Programs here run once: optimising them takes longer than it saves."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Returns a workdir with two budgets, which is read once."""
    folder = tmp_path_factory.mktemp("net")
    chat_run.save(folder, prompt_cases.TILES[0], budgets=BUDGETS)
    # Many tokens end an answer: few answers are as long as they may be.
    ends = {"eos_token_id": [tiny_llava.END, *range(0, 256, 11)]}
    file = folder / "workdir/tokenizer/generation_config.json"
    file.write_text(json.dumps(ends))
    once = functools.cache(load.load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "load", once)
        patch.setattr(plug_in, "load", once)
        yield folder / "workdir"


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


def test_lmms_eval_finds_the_model():
    found = importlib.metadata.entry_points(group="lmms_eval.models")
    (point,) = (each for each in found if each.name == "visor_jax")
    assert point.load() is manifest
    from lmms_eval.models import get_model

    assert get_model("visor_jax") is plug_in.VisorChat
    assert get_model("visor_jax", force_simple=True) is plug_in.VisorSimple


def test_damaged_documents_are_empty_answers_and_the_others_are_answered(
    network, capsys
):
    from lmms_eval.api.instance import Instance

    model = made(network)
    picture = prompt_cases.random_image(20, 30)

    def messages_of(doc):
        if doc is None:
            raise OSError("cannot identify image file")
        parts = [{"type": doc[0], "url": picture}, {"type": "text", "text": doc[1]}]
        return [{"role": "user", "content": parts}]

    docs = [("image", "What is it?"), None, ("audio", "Why?"), ("image", "Why?")]
    model.task_dict = {"local": {"test": docs}}
    given = {"max_new_tokens": 4, "until": "\n\n"}

    def requests(numbers):
        return [
            Instance(
                "generate_until",
                ("", messages_of, given, n, "local", "test"),
                idx=0,
                metadata={"task": "local", "doc_id": n, "repeats": 1},
            )
            for n in numbers
        ]

    found = model.generate_until(requests([3, 1, 2, 0]))
    assert given == {"max_new_tokens": 4, "until": "\n\n"}
    assert [each.token_counts is None for each in found] == [False, True, True, False]
    assert [each.text for each in found[1:3]] == ["", ""]
    assert all(each.token_counts.input_tokens > 10 for each in found[::3])
    with pytest.raises(UserError, match="cannot identify"):
        model.generate_until(requests([1, 1]))
    assert model.generate_until([]) == []
    given["num_beams"] = 5
    with pytest.raises(UserError, match="local: num_beams=5"):
        model.generate_until(requests([0]))
    for refused in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="generate_until"):
            refused([])


def made(network, **arguments):
    given = {"chat_template": "hub", "rows": 2, "slots": 8, "batch_size": "1"}
    return plug_in.VisorChat(pretrained=str(network), **given, **arguments)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"budget": "sa9"}, "sa9"),
        ({"reduce": "fastvv"}, "fastvv"),
        ({"device_map": "auto"}, r"knows no \['device_map'\]"),
        ({"rows": 3}, "rows=3 is no power of two"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, why, network):
    given = {"rows": 2, "slots": 8} | arguments
    with pytest.raises(UserError, match=why):
        plug_in.VisorChat(pretrained=str(network), **given)


def test_one_process_and_one_checkpoint(network, monkeypatch):
    with pytest.raises(UserError, match="pretrained=PATH"):
        plug_in.VisorChat()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE=2"):
        made(network)


def test_names_with_commas_stand_in_quotes(network):
    assert made(network, budget=f'"{BUDGETS[1]}"').budget == BUDGETS[1]
