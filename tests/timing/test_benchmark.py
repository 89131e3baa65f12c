"""`python -m visor_jax.timing.benchmark`: what is counted, and by which clock."""

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
        self.asked, self.forgotten = {"engine": [], "one by one": []}, 0
        self.scheduler = types.SimpleNamespace(
            images=types.SimpleNamespace(images_run=0)
        )

    def engine(self, budget, *, config):
        assert (budget, config.new_tokens) == ("all", GQA.new_tokens)
        return self

    def forget_images(self):
        self.forgotten += 1

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


def test_everything_is_asked_once_before_it_is_counted(benchmark):
    prompts = [row.prompt for row in made_up.rows("gqa")]
    model = FakeModel(otherwise=[prompts[0], prompts[7]])
    # Engine and one by one in turn; the first two compile.
    times = [0.0]
    for seconds in (90, 90, 2, 14, 4, 10, 3, 12):
        times += [times[-1] + seconds, times[-1] + seconds]
    times = iter(times)
    found = compare(
        model, benchmark, budget="all", repeats=3, clock=lambda: next(times)
    )
    # Two questions about each of ten pictures.
    assert (found.questions, found.pictures, found.encoded) == (20, 10, 10)
    assert found.equal == 18
    assert found.engine_seconds == (2, 4, 3)
    assert found.one_by_one_seconds == (14, 10, 12)
    assert found.times_as_fast == 4.0
    assert [len(each) for each in model.asked["engine"]] == [20] * 4
    assert len(model.asked["one by one"]) == 80
    # What an engine keeps of a picture would be found by the next turn.
    assert model.forgotten == 8
    said = "\n".join(_lines(found, "gqa"))
    assert "20 questions of gqa about 10 pictures, median of 3 turns" in said
    assert "engine      3.0 s (2.0 to 4.0), 150.0 ms a question; 10 pictures" in said
    assert "4.0 times as fast; 18 of 20 answers are the same" in said


def test_what_cannot_be_answered_is_an_error(benchmark):
    with pytest.raises(ValueError, match=r"20 questions failed: too long"):
        compare(FakeModel(error="too long"), benchmark, budget="all")
