"""Prompts and scores of every known benchmark beside those of lmms-eval itself.

Four hundred made-up answers a benchmark, one by one and added up. What differs is named
in `.docs/benchmarks.md`, and here.
"""

import argparse
import functools
import inspect
import itertools
import json
import math

import pytest

from tests.evals.exports import answered_lines
from tests.evals.lmms_eval import local_tasks, made_up_answers

pytest.importorskip("lmms_eval", reason=local_tasks.REASON)
pytest.importorskip("pyarrow")

from visor_jax.evals.answered import lines
from visor_jax.evals.benchmarks.registry import BENCHMARKS
from visor_jax.evals.exports import lmms_eval_samples
from visor_jax.evals.tables.table_benchmark import TableBenchmark

# {benchmark: {lmms-eval's metric: the figure here}}, where it is a number in 0..1.
FIGURES = {
    **{name: {"exact_match": "accuracy"} for name in ("scienceqa", "ai2d")},
    **{name: {"exact_match": "vqa_accuracy"} for name in ("textvqa", "vqav2")},
    **{name: {"anls": "anls"} for name in ("docvqa", "infovqa")},
    "realworldqa": {"exact_match": "accuracy"},
    "vizwiz": {"exact_match": "vqa_accuracy"},
    "gqa": {"exact_match": "exact_match"},
    "chartqa": {
        name: name
        for name in (
            *("relaxed_overall", "relaxed_human_split", "relaxed_augmented_split"),
        )
    },
    "pope": {
        "pope_accuracy": "accuracy",
        "pope_precision": "precision",
        "pope_recall": "recall",
        "pope_f1_score": "f1",
    },
    "mme": {"mme_perception_score": "perception", "mme_cognition_score": "cognition"},
    "mmbench": {"gpt_eval_score": "circular_accuracy"},
    "mmstar": {"average": "average"},
    "seed": {"seed_image": "accuracy"},
    "mmmu": {"mmmu_acc": "accuracy"},
    "ocrbench": {"ocrbench_accuracy": "accuracy"},
    # GPT cuts the result out of answers there.
    "mathvista": {},
}
# What theirs are multiplied by: MMBench counts per cent, OCRBench of a thousand.
UNITS = {"mmbench": 1 / 100, "ocrbench": 1000 / local_tasks.made_up.COUNT}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    local_tasks.offline(folder)
    return folder


@pytest.fixture(scope="module")
def files(folder):
    """Returns the file of every benchmark."""
    return {
        name: local_tasks.write_hub(name, folder, local_tasks.rows(name))
        for name in local_tasks.FILES
    }


@pytest.fixture(scope="module")
def theirs(files, tmp_path_factory):
    """Returns lmms-eval's task of every benchmark."""
    return local_tasks.tasks(files, tmp_path_factory.mktemp("tasks"))


@pytest.fixture
def docs(theirs, request):
    name = request.node.callspec.params["name"]
    return list(theirs[name].eval_docs)


def test_every_benchmark_that_they_have_is_held_to_theirs():
    assert {*BENCHMARKS} - {*local_tasks.FILES} == {"easy_vqa", "easy_vqa_dev"}


def ours(name, folder):
    return TableBenchmark.open(BENCHMARKS[name], folder)


def scored(benchmark, said):
    """Returns what becomes of one answer to each question, in the order of rows."""
    asked = benchmark.questions.values()
    given = zip(asked, said, strict=True)
    return [lines.scored(benchmark.definition, question, s) for question, s in given]


def without_chance(monkeypatch):
    """Has lmms-eval draw an option that there is not, where it can read none."""
    from lmms_eval.tasks._task_utils import mmmu_mcq_utils

    monkeypatch.setattr(mmmu_mcq_utils.random, "choice", lambda letters: "none")


def total_of(task, metric, values):
    """Returns what lmms-eval adds these values up to."""
    total = task.aggregation()[metric]
    # OCRBench counts on from one run to the next.
    counts = total.__globals__.get("OCRBench_score", {})
    counts.update(dict.fromkeys(counts, 0))
    if "args" in inspect.signature(total).parameters:
        place = argparse.Namespace(output_path=None)
        total = functools.partial(total, args=place)
    return total(values)


def score_of(name, task, metrics):
    """Returns lmms-eval's score of one answer; None where there is none."""
    value = next(iter(metrics.values()))
    if name == "mmbench":
        return None  # Of circles alone.
    if name == "mathvista":
        return float(value["true_false"])
    if name == "mmmu":
        return task.aggregation()["mmmu_acc"]([value])
    if name == "seed":
        return task.aggregation()["seed_image"]([value])
    return float(value["score"] if isinstance(value, dict) else value)


@pytest.mark.parametrize("name", local_tasks.FILES)
def test_prompts_are_byte_for_byte_theirs(name, folder, theirs, docs):
    task, benchmark = theirs[name], ours(name, folder)
    shown = {each.id: each.request for each in benchmark.examples()}
    assert len(docs) == len(benchmark.questions)
    for doc, question in zip(docs, benchmark.questions.values(), strict=True):
        assert question.prompt == task.doc_to_text(doc)
        assert len(shown[question.id].images) == len(task.doc_to_visual(doc))
    length = task.config.generation_kwargs.get("max_new_tokens")
    assert length in (None, 16384, benchmark.new_tokens)


def test_a_swapped_sentence_is_none_of_theirs(folder, theirs):
    (doc, *_) = theirs["docvqa"].eval_docs
    (question, *_) = ours("docvqa", folder).questions.values()
    swapped = question.prompt.replace("word or phrase", "phrase or word")
    assert swapped != question.prompt
    assert swapped != theirs["docvqa"].doc_to_text(doc)


@pytest.mark.parametrize("name", [n for n in local_tasks.FILES if n != "mathvista"])
def test_scores_are_theirs(name, folder, theirs, docs, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    without_chance(monkeypatch)
    task, benchmark = theirs[name], ours(name, folder)
    asked = list(benchmark.questions.values())
    given = [made_up_answers.answers(q, n) for n, q in enumerate(asked)]
    differing, right = [], 0
    for said in zip(*given, strict=True):
        found = scored(benchmark, said)
        metrics = [
            local_tasks.processed(task, doc, answer)
            for doc, answer in zip(docs, said, strict=True)
        ]
        for mine, their in zip(found, metrics, strict=True):
            score = score_of(name, task, their)
            right += mine.score == 1.0
            if score is not None and not math.isclose(score, mine.score, abs_tol=1e-9):
                differing.append((mine.answer, mine.question.references, score, mine))
        assert not differing, differing[:5]
        check_figures(name, task, benchmark, found, metrics)
    # Some are right, some are wrong: else they would agree whatever is computed.
    assert 20 <= right <= 380


def check_figures(name, task, benchmark, found, metrics):
    figures = {f.name: f for f in benchmark.definition.figures(benchmark.categories)}
    for metric, figure in FIGURES[name].items():
        values = [each[metric] for each in metrics if metric in each]
        expected = total_of(task, metric, values) * UNITS.get(name, 1)
        groups = by_group(found)
        sums = {}
        for group in groups:
            for key, value in figures[figure].of_group(group).items():
                sums[key] = sums.get(key, 0.0) + value
        value = float(figures[figure].combine(sums))
        # MMMU's are rounded to five places.
        assert value == pytest.approx(expected, abs=1e-5), (metric, figure)


def by_group(found):
    def of(answered):
        return answered.question.group

    return [list(group) for _, group in itertools.groupby(sorted(found, key=of), of)]


def test_circles_of_mmbench_are_theirs_one_by_one(folder, theirs):
    from lmms_eval.tasks.mmbench import en_utils

    task, benchmark = theirs["mmbench"], ours("mmbench", folder)
    docs, asked = list(task.eval_docs), list(benchmark.questions.values())
    given = [made_up_answers.answers(q, n) for n, q in enumerate(asked)]
    right = 0
    for said in itertools.islice(zip(*given, strict=True), 12):
        found = scored(benchmark, said)
        # The other row of the circle is answered rightly.
        for n, doc in enumerate(docs[:10]):
            other, letter = docs[n + 10], docs[n + 10]["answer"]
            metrics = [
                local_tasks.processed(task, doc, said[n])["gpt_eval_score"],
                local_tasks.processed(task, other, letter)["gpt_eval_score"],
            ]
            hit, _, _ = en_utils.mmbench_evaluator.eval_result(metrics, "static")
            assert hit == found[n].score, (said[n], found[n])
            right += hit
    assert 10 < right < 110


def test_results_of_mathvista_are_theirs_where_no_judge_is_asked(folder, theirs):
    """Texts of options and bare numbers: the rest is GPT's there, and rules' here."""
    task, benchmark = theirs["mathvista"], ours("mathvista", folder)
    right = 0
    for doc, question in zip(task.eval_docs, benchmark.questions.values(), strict=True):
        if doc["question_type"] == "multi_choice":
            said = question.choices
        elif doc["answer_type"] in ("integer", "float"):
            said = ("14", "14.0", "1.2", "1.25", "1.249", "-3", "0", "1.20")
        else:
            continue
        if doc["answer_type"] == "integer":
            said = [each for each in said if "." not in each]
        for answer in said:
            mine = lines.scored(benchmark.definition, question, answer).score
            assert mine == score_of(
                "mathvista", task, task.process_results(doc, [answer])
            )
            right += mine
    assert right >= 10


@pytest.mark.parametrize("name", [n for n in local_tasks.FILES if n != "mathvista"])
def test_exported_lines_hold_what_lmms_eval_logs(name, folder, theirs, docs):
    task, benchmark = theirs[name], ours(name, folder)
    asked = list(benchmark.questions.values())
    said = [made_up_answers.answers(q, n)[n % 5] for n, q in enumerate(asked)]
    made = lmms_eval_samples.content(
        benchmark.definition, answered_lines.lines(benchmark, said), folder
    )
    samples = [json.loads(line) for line in made.decode().split("\n") if line]
    for number, (doc, sample) in enumerate(zip(docs, samples, strict=True)):
        expected = local_tasks.processed(task, doc, said[number])
        expected = json.loads(json.dumps(expected))
        if name == "mmmu":
            mine, their = sample["mmmu_acc"], expected["mmmu_acc"]
            (mine, *_), (their, *_) = mine.pop("parsed_pred"), their.pop("parsed_pred")
            # Open answers are read as a set; an unread one is drawn by chance.
            assert mine is None or set(mine) == set(their)
        for metric in set(expected) - {"submission", "mmmu_acc_pass_at_k"}:
            if not isinstance(expected[metric], dict):
                expected[metric] = pytest.approx(expected[metric])
            assert sample[metric] == expected[metric], metric
        assert sample["doc_id"] == number
        left = local_tasks.filtered(task, doc, said[number])
        # AI2D's filter leaves blanks, which never count.
        assert sample["filtered_resps"].strip() == left.strip()
    assert lmms_eval_samples.file_name(benchmark.definition) == (
        f"samples_{local_tasks.FILES[name].rpartition('/')[2]}.jsonl"
    )
