"""`python -m visor_jax.timing.benchmark`: what is counted, and by which clock."""

import itertools
import types

import pytest

from tests.evals.benchmarks import made_up
from visor_jax.evals.benchmarks.registry import BENCHMARKS
from visor_jax.evals.tables.table_benchmark import TableBenchmark
from visor_jax.timing.benchmark import _lines, compare

GQA = BENCHMARKS["gqa"]


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    made_up.write_table("gqa", folder / f"{GQA.tsv}.tsv")
    return TableBenchmark.open(GQA, folder)


class FakeModel:
    """Answers by the number of a prompt; its engine some of them otherwise."""

    def __init__(self, otherwise=(), error=None):
        self.otherwise, self.error = otherwise, error
        self.asked = {"engine": [], "one by one": []}
        self.scheduler = types.SimpleNamespace(
            images=types.SimpleNamespace(images_run=0)
        )

    def engine(self, budget, *, config):
        assert (budget, config.new_tokens) == ("all", GQA.new_tokens)
        return self

    def answer_all(self, requests):
        self.asked["engine"].append(requests)
        pictures = {request.images[0] for request in requests}
        self.scheduler.images.images_run += len(pictures)
        return [
            types.SimpleNamespace(text=self.text(request, True), error=self.error)
            for request in requests
        ]

    def generate_all(self, requests, budget, *, batch_size, max_new_tokens):
        assert (len(requests), budget, batch_size) == (1, "all", 1)
        assert max_new_tokens == GQA.new_tokens
        self.asked["one by one"].append(requests)
        return [self.text(requests[0], False)]

    def text(self, request, by_engine):
        prompt = request.prompt[0]["content"][-1]["text"]
        return f"{prompt} {by_engine and prompt in self.otherwise}"


def test_pictures_of_the_warm_up_are_not_counted(benchmark):
    prompts = [row.prompt for row in made_up.rows("gqa")]
    # One about a picture of the warm-up, two about others.
    model = FakeModel(otherwise=[prompts[0], prompts[7], prompts[18]])
    times = itertools.accumulate([0.0, 2.0, 0.0, 14.0])
    found = compare(
        model, benchmark, budget="all", warm_up=3, clock=lambda: next(times)
    )
    # Two questions about each of ten pictures: the third is about the second of them.
    assert (found.questions, found.pictures, found.encoded) == (16, 8, 8)
    assert found.equal == 14
    assert (found.engine_seconds, found.one_by_one_seconds) == (2.0, 14.0)
    assert found.times_as_fast == 7.0
    assert [len(each) for each in model.asked["engine"]] == [4, 16]
    alone = [each for (each,) in model.asked["one by one"]]
    assert alone == [*itertools.chain(*model.asked["engine"])]
    said = "\n".join(_lines(found, "gqa"))
    assert "16 questions of gqa about 8 pictures" in said
    assert "engine      2.0 s, 125.0 ms a question; 8 pictures encoded" in said
    assert "7.0 times as fast; 14 of 16 answers are the same" in said


def test_what_cannot_be_timed_is_refused(benchmark):
    with pytest.raises(ValueError, match="--warm_up=19 leaves none of 20 questions"):
        compare(FakeModel(), benchmark, budget="all", warm_up=19)
    with pytest.raises(ValueError, match="2 questions failed: too long"):
        compare(FakeModel(error="too long"), benchmark, budget="all", warm_up=1)
