"""Scores on disk: computed once, gone on with, never mixed."""

import numpy as np
import pytest

from visor_jax.policy.score_cache import (
    ScoreCache,
    cache_folder,
    collect_scores,
    digest_of_params,
)
from visor_jax.policy.scores import ScoredSamples

IDENTITY = {"params": "abc", "budgets": ("sa0", "sa1:1"), "batches": 3}


def samples(number: int) -> ScoredSamples:
    rng = np.random.default_rng(number)
    return ScoredSamples(
        routing=rng.normal(size=(2, 4)).astype(np.float32),
        image=rng.normal(size=(2, 4)).astype(np.float32),
        correct=rng.random((2, 3)) < 0.5,
        log_likelihood=-rng.random((2, 3)).astype(np.float32),
        rows=np.full(2, number, np.int32),
        slots=np.arange(2, dtype=np.int32),
    )


class Scorer:
    """Scores a batch, remembers which, and may break at one."""

    def __init__(self, broken: int | None = None) -> None:
        self.seen: list[int] = []
        self.broken = broken

    def __call__(self, batch: str, number: int) -> ScoredSamples:
        if number == self.broken:
            raise KeyboardInterrupt
        assert batch == "abc"[number]
        self.seen.append(number)
        return samples(number)


def same(found: ScoredSamples, expected: ScoredSamples) -> None:
    for name, array in expected.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], array)
        assert found.arrays()[name].dtype == array.dtype


def test_a_stopped_stage_goes_on_where_it_was(tmp_path):
    first, again, third = Scorer(broken=2), Scorer(), Scorer()
    with pytest.raises(KeyboardInterrupt):
        collect_scores(ScoreCache(tmp_path, IDENTITY), "abc", first)
    assert first.seen == [0, 1]
    done = []
    found = collect_scores(
        ScoreCache(tmp_path, IDENTITY), "abc", again, progress=done.append
    )
    assert again.seen == [2]
    assert done == [1, 2, 3]
    expected = ScoredSamples.join([samples(n) for n in range(3)])
    same(found, expected)
    same(collect_scores(ScoreCache(tmp_path, IDENTITY), "abc", third), expected)
    assert third.seen == []
    assert not [f for f in tmp_path.iterdir() if f.suffix not in (".npz", ".json")]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", None])
def test_a_damaged_file_is_computed_again(tmp_path, content):
    cache = ScoreCache(tmp_path, IDENTITY)
    collect_scores(cache, "abc", Scorer())
    file = tmp_path / "00001.npz"
    file.write_bytes(file.read_bytes()[:-40] if content is None else content)
    scorer = Scorer()
    same(
        collect_scores(cache, "abc", scorer), ScoredSamples.join(map(samples, range(3)))
    )
    assert scorer.seen == [1]


def test_scores_of_something_else_are_refused(tmp_path):
    ScoreCache(tmp_path, IDENTITY)
    ScoreCache(tmp_path, {**IDENTITY, "budgets": ["sa0", "sa1:1"]})
    with pytest.raises(ValueError, match="params: abc there, abd asked for"):
        ScoreCache(tmp_path, {**IDENTITY, "params": "abd"})
    with pytest.raises(ValueError, match="split: None there, test asked for"):
        ScoreCache(tmp_path, {**IDENTITY, "split": "test"})
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        ScoreCache(tmp_path, IDENTITY)


def test_scores_that_do_not_say_of_what_are_refused(tmp_path):
    (tmp_path / "00000.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no identity\.json"):
        ScoreCache(tmp_path, IDENTITY)


def test_folders_differ_by_identity(tmp_path):
    assert cache_folder(tmp_path, IDENTITY) == cache_folder(tmp_path, dict(IDENTITY))
    other = cache_folder(tmp_path, {**IDENTITY, "batches": 4})
    assert other != cache_folder(tmp_path, IDENTITY)


def test_a_digest_sees_names_values_and_types():
    params = {"a": {"kernel": np.ones((2, 3), np.float32)}, "b": np.zeros(3)}
    digest = digest_of_params(params)
    assert digest == digest_of_params({"b": np.zeros(3), "a": params["a"]})
    changed = np.ones((2, 3), np.float32)
    changed[1, 2] = np.nextafter(np.float32(1), np.float32(2))
    for other in (
        {**params, "a": {"kernel": changed}},
        {**params, "a": {"bias": params["a"]["kernel"]}},
        {**params, "a": {"kernel": np.ones((3, 2), np.float32)}},
        {**params, "b": np.zeros(3, np.int64)},
    ):
        assert digest_of_params(other) != digest
