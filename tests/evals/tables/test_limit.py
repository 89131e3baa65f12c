"""Which groups a limit takes."""

import numpy as np
import pytest

from visor_jax.evals.tables.limit import identity_of, sentence, spread_groups


@pytest.mark.parametrize(
    ("sizes", "limit", "places"),
    [
        ([2, 2, 2, 2, 2, 2], 4, [1, 4]),
        ([2, 2, 2, 2, 2, 2], 3, [1, 4]),
        ([1] * 9, 3, [1, 4, 7]),
        ([1] * 10, 1, [5]),
        ([1, 1, 9, 1], 5, [2]),
        ([3, 3], 6, [0, 1]),
        ([3, 3], 99, [0, 1]),
        ([7], 1, [0]),
    ],
)
def test_which_groups_are_taken(sizes, limit, places):
    assert spread_groups(sizes, limit) == places


def test_no_fewer_would_do_and_gaps_are_alike():
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = rng.integers(1, 6, rng.integers(1, 60)).tolist()
        limit = int(rng.integers(1, sum(sizes) + 3))
        places = spread_groups(sizes, limit)
        assert places == sorted(set(places))
        held = sum(sizes[place] for place in places)
        assert held >= min(limit, sum(sizes))
        gaps = np.diff([-1, *places, len(sizes)])[1:-1]
        assert not gaps.size or gaps.max() - gaps.min() <= 1
        for count in range(1, len(places)):
            middles = [int((i + 0.5) * len(sizes) / count) for i in range(count)]
            assert sum(sizes[place] for place in middles) < limit


def test_what_is_said_of_a_limit():
    assert sentence("gqa", identity_of(None, 20, 20)) is None
    assert sentence("gqa", {}) is None
    assert sentence("gqa", identity_of(3, 4, 20)) == (
        "gqa: 4 of 20 questions: --limit=3 took whole groups, spread evenly"
    )
    before = {"limit": 3, "questions": 3}
    assert "3 of more questions: --limit=3 took the first rows" in sentence(
        "gqa", before
    )
