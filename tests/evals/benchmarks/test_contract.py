"""What every known benchmark does: one contract, held over the registry.

Prompts are those written out in `made_up`; a right answer to every question scores
full; order and rerun change no digit; the hub's files and VLMEvalKit's table of the
same questions score alike.
"""

import dataclasses
import math

import pytest

from tests.evals.benchmarks import made_up
from visor_jax.data.prompts.request import Request
from visor_jax.evals.answered.figure import Answered
from visor_jax.evals.answered.intervals import measure
from visor_jax.evals.benchmark import Benchmark
from visor_jax.evals.benchmarks.registry import BENCHMARKS, definition_of
from visor_jax.evals.tables.definition import Definition
from visor_jax.evals.tables.table_benchmark import TableBenchmark

pytest.importorskip("pyarrow")
# One of its categories that are perception is there.
FULL = {"mme": 200.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Returns a folder with the hub's files of every benchmark."""
    folder = tmp_path_factory.mktemp("hub")
    for name, definition in BENCHMARKS.items():
        made_up.write_hub(name, definition.source, folder, definition.picture_source)
    return folder


def opened(definition, folder, **options):
    return TableBenchmark.open(definition, folder, **options)


def answers(benchmark, said):
    """Returns what becomes of these answers, by id, to the questions in their order."""
    found = []
    for question, answer in zip(benchmark.questions.values(), said, strict=True):
        parsed, score = benchmark.definition.score(question, answer)
        found.append(
            Answered(question=question, answer=answer, parsed=parsed, score=score)
        )
    return found


def figures(benchmark, said, draws=200):
    categories = benchmark.categories
    given = benchmark.definition.figures(categories)
    return measure(given, answers(benchmark, said), draws=draws)


def check(definition: Definition, folder) -> None:
    """Holds one benchmark to the contract."""
    rows = made_up.rows(definition.name)
    benchmark = opened(definition, folder)
    assert isinstance(benchmark, Benchmark)
    assert len(benchmark) == made_up.COUNT
    # A right answer is a right answer, and anything else is not.
    asked = list(benchmark.questions.values())
    assert [question.prompt for question in asked] == [row.prompt for row in rows]
    right = [row.right for row in rows]
    assert [a.score for a in answers(benchmark, right)] == [1.0] * len(rows)
    wrong = answers(benchmark, ["§§§§§§"] * len(rows))
    assert sum(each.score for each in wrong) < len(rows) / 2
    # What most annotators say is right.
    if not asked[0].choices and definition.name != "mathvista":
        said = [max(q.references, key=q.references.count) for q in asked]
        assert {each.score for each in answers(benchmark, said)} == {1.0}
    headline = figures(benchmark, right)[0]
    assert headline.value == FULL.get(definition.name, 1.0)
    # Questions about one picture stand together, each once, with its picture.
    examples = list(benchmark.examples())
    assert sorted(each.id for each in examples) == sorted(benchmark.questions)
    shown = [each.request.images[0] for each in examples]
    assert all(shown[i] == shown[i + 1] for i in range(0, len(shown), 2))
    assert len(set(shown)) == 10
    places = {question.id: n for n, question in enumerate(asked)}
    for example in examples:
        assert isinstance(example.request, Request)
        (message,) = example.request.messages()
        assert message["content"][-1]["text"] == rows[places[example.id]].prompt
        picture = made_up.picture(made_up.picture_of(places[example.id]))
        assert example.request.images == [picture]
        assert example.request.options.max_new_tokens == definition.new_tokens


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_keeps_the_contract(name, data):
    check(BENCHMARKS[name], data)


@pytest.mark.parametrize("name", ["docvqa", "chartqa", "mmbench", "mmmu", "pope"])
def test_a_swapped_sentence_is_found(name, data):
    definition = BENCHMARKS[name]

    def read(row, number):
        question = definition.read(row, number)
        return dataclasses.replace(question, prompt=question.prompt.replace(".", "!"))

    with pytest.raises(AssertionError):
        check(dataclasses.replace(definition, read=read), data)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_order_and_rerun_change_no_digit(name, data):
    benchmark = opened(BENCHMARKS[name], data)
    said = [
        row.right if n % 3 else "something" for n, row in enumerate(made_up.rows(name))
    ]
    answered = answers(benchmark, said)
    given = benchmark.definition.figures(benchmark.categories)
    once, again = (measure(given, a, draws=100) for a in (answered, answered[::-1]))
    assert str(once) == str(again)
    assert len(once) == len({each.name for each in once})
    for each in once:
        assert math.isnan(each.value) or each.low <= each.value <= each.high


@pytest.mark.parametrize("name", [n for n, d in BENCHMARKS.items() if d.tsv_columns])
def test_both_forms_of_files_score_alike(name, data, tmp_path):
    definition = BENCHMARKS[name]
    made_up.write_table(name, tmp_path / f"{definition.tsv}.tsv")
    hub, table = opened(definition, data), opened(definition, tmp_path)
    said = [
        row.right if n % 3 else "something" for n, row in enumerate(made_up.rows(name))
    ]
    one, other = figures(hub, said), figures(table, said)
    # Names of groups differ, and with them what is drawn: not what they sum up to.
    assert [(a.name, a.value) for a in one] == [(b.name, b.value) for b in other]
    prompts = [[q.prompt for q in each.questions.values()] for each in (hub, table)]
    assert prompts[0] == prompts[1]
    seen = [e.request.images for e in table.examples()]
    assert len({each[0] for each in seen}) == 10


@pytest.mark.parametrize("name", ["mme", "mmbench", "docvqa"])
def test_a_limit_takes_whole_groups_from_everywhere(name, data):
    every, some = (opened(BENCHMARKS[name], data, limit=limit) for limit in (None, 3))
    assert (every.limited, some.there_are) == (None, made_up.COUNT)
    groups = [question.group for question in every.questions.values()]
    # Of ten pairs the middle ones of the first and the second half.
    halves = list(dict.fromkeys(groups))
    expected = {halves[2], halves[7]}
    assert len(halves) == 10
    assert [q for q in every.questions.values() if q.group in expected] == [
        *some.questions.values()
    ]
    assert len(some) == 4
    said = f"{name}: 4 of 20 questions: --limit=3 took whole groups, spread evenly"
    assert some.limited == said
    assert some.identity()["there_are"] == 20
    with pytest.raises(ValueError, match="limit=0"):
        opened(BENCHMARKS[name], data, limit=0)


def test_what_is_asked_is_what_is_identified(data):
    def digest(name, **options):
        return opened(BENCHMARKS[name], data, **options).identity()["data_digest"]

    assert digest("docvqa") == digest("docvqa")
    assert digest("docvqa") != digest("docvqa", limit=3)
    assert digest("docvqa") != digest("textvqa")


def test_an_unknown_benchmark_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'docvqua'; known are docvqa, infovqa"):
        definition_of("docvqua")
    assert len(BENCHMARKS) == 20
