"""Scores on disk: computed once for all who ask, gone on with, never mixed."""

import dataclasses

import numpy as np
import pytest

from visor_jax.batch import Batch
from visor_jax.budget import BudgetSet
from visor_jax.layer_plan import LayerPlan
from visor_jax.policy.score_cache import (
    ScoreCache,
    collect_scores,
    digest_of_arrays,
)
from visor_jax.policy.scores import ScoredSamples

PLAN = LayerPlan.build(4, cross=(0,), self_=(1, 2))
NETWORK = {"params": "abc", "model": {"layers": 4}}


def budgets(*names: str) -> BudgetSet:
    return BudgetSet.parse(names, PLAN)


BOTH = budgets("none", "all")


def batch(number: int) -> Batch:
    """Returns a batch of two rows, unlike those of other numbers."""
    numbers = np.full((2, 3), number, np.int32)
    return Batch(
        pixels=np.zeros((2, 1, 2, 2, 3), np.float32),
        image_token_index=numbers,
        image_positions=numbers,
        image_mask=numbers > 0,
        tokens=numbers,
        text_positions=numbers,
        text_segments=numbers,
        text_mask=numbers > 0,
        targets=numbers,
        loss_mask=numbers > 0,
    )


BATCHES = [batch(number) for number in range(3)]


def samples(number: int, chosen: BudgetSet) -> ScoredSamples:
    rng = np.random.default_rng(number)
    columns = [len(budget.self_layers) for budget in chosen]
    return ScoredSamples(
        routing=rng.normal(size=(2, 4)).astype(np.float32),
        image=rng.normal(size=(2, 4)).astype(np.float32),
        correct=(rng.random((2, 3)) < 0.5)[:, columns],
        log_likelihood=-rng.random((2, 3)).astype(np.float32)[:, columns],
        rows=np.arange(2, dtype=np.int32),
        slots=np.arange(2, dtype=np.int32),
    )


class Scorer:
    """Scores a batch, remembers (batch, budgets), and may break at one."""

    def __init__(self, broken: int | None = None) -> None:
        self.seen: list[tuple[int, tuple[str, ...]]] = []
        self.broken = broken

    def __call__(self, batch: Batch, chosen: BudgetSet) -> ScoredSamples:
        number = int(batch.tokens[0, 0])
        if number == self.broken:
            raise KeyboardInterrupt
        self.seen.append((number, chosen.names))
        return samples(number, chosen)


def expected(chosen: BudgetSet, numbers=(0, 1, 2)) -> ScoredSamples:
    joined = ScoredSamples.join([samples(n, chosen) for n in numbers])
    rows = np.arange(2 * len(numbers), dtype=np.int32)
    return dataclasses.replace(joined, rows=rows)


def same(found: ScoredSamples, wanted: ScoredSamples) -> None:
    for name, array in wanted.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], array)
        assert found.arrays()[name].dtype == array.dtype


def collect(folder, scorer, chosen=BOTH, batches=BATCHES, network=NETWORK, **options):
    cache = ScoreCache(folder, network)
    return collect_scores(cache, batches, chosen, scorer, **options)


def test_a_stopped_stage_goes_on_where_it_was(tmp_path):
    first, again, third = Scorer(broken=2), Scorer(), Scorer()
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path, first)
    assert [number for number, _ in first.seen] == [0, 1]
    done = []
    same(collect(tmp_path, again, progress=done.append), expected(BOTH))
    assert [number for number, _ in again.seen] == [2]
    assert done == [1, 2, 3]
    same(collect(tmp_path, third), expected(BOTH))
    assert third.seen == []
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".npz", ".json"}


def test_only_budgets_that_nobody_asked_for_are_computed(tmp_path):
    collect(tmp_path, Scorer())
    wider, other = budgets("all", "sa1:1", "none"), Scorer()
    same(collect(tmp_path, other, wider), expected(wider))
    assert other.seen == [(number, ("sa1:1",)) for number in range(3)]


def test_batches_are_known_by_what_they_hold(tmp_path):
    collect(tmp_path, Scorer())
    longer, other = [*BATCHES[1:], batch(3)], Scorer()
    found = collect(tmp_path, other, batches=longer)
    assert [number for number, _ in other.seen] == [3]
    same(found, expected(BOTH, (1, 2, 3)))
    # Labels of the reading loss change nothing.
    labelled = BATCHES[0].replace(image_labels=np.zeros((2, 3), np.int32))
    collect(tmp_path, other, batches=[labelled])
    assert len(other.seen) == 1
    moved = BATCHES[0].replace(pixels=BATCHES[0].pixels + 1)
    collect(tmp_path, other, batches=[moved])
    assert len(other.seen) == 2


def test_scores_of_another_network_are_not_met(tmp_path):
    collect(tmp_path, Scorer())
    for network in ({**NETWORK, "params": "abd"}, {**NETWORK, "model": {}}):
        other = Scorer()
        collect(tmp_path, other, network=network)
        assert len(other.seen) == 3
    same_again = Scorer()
    collect(tmp_path, same_again, network=dict(reversed(NETWORK.items())))
    assert same_again.seen == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", None])
@pytest.mark.parametrize("name", ["seen.npz", "sa2_1,2.npz"])
def test_a_damaged_file_is_computed_again(tmp_path, content, name):
    collect(tmp_path, Scorer())
    file = sorted(tmp_path.rglob(name))[0]
    file.write_bytes(file.read_bytes()[:-40] if content is None else content)
    scorer = Scorer()
    same(collect(tmp_path, scorer), expected(BOTH))
    assert len(scorer.seen) == 1
    once_more = Scorer()
    same(collect(tmp_path, once_more), expected(BOTH))
    assert once_more.seen == []


def test_a_digest_sees_names_values_and_types():
    params = {"a": {"kernel": np.ones((2, 3), np.float32)}, "b": np.zeros(3)}
    digest = digest_of_arrays(params)
    assert digest == digest_of_arrays({"b": np.zeros(3), "a": params["a"]})
    changed = np.ones((2, 3), np.float32)
    changed[1, 2] = np.nextafter(np.float32(1), np.float32(2))
    for other in (
        {**params, "a": {"kernel": changed}},
        {**params, "a": {"bias": params["a"]["kernel"]}},
        {**params, "a": {"kernel": np.ones((3, 2), np.float32)}},
        {**params, "b": np.zeros(3, np.int64)},
    ):
        assert digest_of_arrays(other) != digest
