"""Which blocks meet, against every pair of tokens; and what a walk fetches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.kernels import numpy_attention
from tests.ops.kernels.numpy_attention import BATCH, Tokens
from visor_jax.ops.kernels.block_table import (
    Walk,
    blocks_meet,
    key_marks,
    query_marks,
    visits,
)

LENGTH, PADDED, BLOCK = 37, 40, 4


def by_question(rng: np.random.Generator, length: int) -> Tokens:
    """Returns an image of 3 blocks and packed questions of 2 blocks behind it."""
    del rng
    order = np.tile(np.arange(length), (BATCH, 1))
    segments = np.where(order < 12, 0, 1 + (order - 12) // 8)
    order = np.where(order < 12, order, 12 + (order - 12) % 8)
    return Tokens(order, segments, order >= 0)


MADE = {
    "in any order": numpy_attention.packed,
    "padded on the right": numpy_attention.padded_right,
    "padded on the left": numpy_attention.padded_left,
    "packed questions": by_question,
}


@jax.jit
def met(query, key):
    return blocks_meet(
        query_marks(query, LENGTH, PADDED), key_marks(key, LENGTH, PADDED), BLOCK, BLOCK
    )


def blocks_of_pairs(query: Tokens, key: Tokens) -> np.ndarray:
    """Returns which blocks hold a pair of a valid query and a key that it sees."""
    pairs = numpy_attention.mask_of(query, key) & query.valid[..., None]
    whole = np.zeros((BATCH, PADDED, PADDED), bool)
    whole[:, :LENGTH, :LENGTH] = pairs
    count = PADDED // BLOCK
    whole = whole.reshape(BATCH, count, BLOCK, count, BLOCK)
    return whole.any(axis=(2, 4))


@pytest.mark.parametrize("name", MADE)
def test_blocks_that_hold_a_visible_pair_meet(name):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        key = MADE[name](rng, LENGTH)
        for query in (key, numpy_attention.around(rng, key, LENGTH)):
            found = np.asarray(met(query.tags, key.tags))
            missed = blocks_of_pairs(query, key) & ~found
            assert not missed.any(), np.argwhere(missed)


@pytest.mark.parametrize(
    "name", ["padded on the right", "padded on the left", "packed questions"]
)
def test_blocks_of_sorted_tokens_meet_only_where_they_must(name):
    """...which makes packed questions cost no more than each by itself."""
    tokens = MADE[name](np.random.default_rng(1), LENGTH)
    found, needed = met(tokens.tags, tokens.tags), blocks_of_pairs(tokens, tokens)
    np.testing.assert_array_equal(found, needed)
    assert needed.mean() < 0.6


def test_without_tags_all_blocks_meet_but_those_of_padding():
    found = np.asarray(met(None, None))
    assert found.shape == (1, 10, 10)
    assert found.all()
    wide = blocks_meet(query_marks(None, 5, 12), key_marks(None, 5, 12), BLOCK, BLOCK)
    expected = np.zeros((3, 3), bool)
    expected[:2, :2] = True
    np.testing.assert_array_equal(wide[0], expected)


def test_the_example_of_the_table():
    meet = jnp.array([[[True, False], [True, True], [False, False]]])
    np.testing.assert_array_equal(visits(meet), [0, 2, 2, 3, 3, 3])
    assert (np.asarray(visits(~jnp.ones((2, 3, 2), bool))) == -1).all()


def walked(meet: np.ndarray) -> list[list[tuple[int, int]]]:
    """Returns, of each row, which pairs are fetched: where the inputs move on."""
    rows, outer, inner = meet.shape
    table, walk = visits(jnp.asarray(meet)), Walk(outer, inner, rows)
    steps = np.indices((rows, outer, inner)).reshape(3, -1)
    stands = jax.vmap(lambda *step: walk.at(table, *step))(*steps)
    np.testing.assert_array_equal(np.asarray(stands.meet), meet.ravel())
    fetched = []
    for row in range(rows):
        here = steps[0] == row
        at = np.stack([stands.outer, stands.inner], axis=-1)[here]
        own = steps[1:, here].T
        np.testing.assert_array_equal(at[meet[row].ravel()], own[meet[row].ravel()])
        moves = np.append(True, (at[1:] != at[:-1]).any(axis=1))
        fetched.append([tuple(pair) for pair in at[moves].tolist()])
    return fetched


def test_only_blocks_that_meet_are_fetched_and_each_pair_once():
    rng = np.random.default_rng(0)
    meet = rng.random((5, 4, 6)) < 0.3
    meet[2] = False
    meet[3, 1:3] = False
    fetched = walked(meet)
    for row, pairs in enumerate(fetched):
        expected = [tuple(pair) for pair in np.argwhere(meet[row]).tolist()]
        # A row without any still has its first blocks in memory.
        assert pairs == (expected or [(0, 0)])


def test_one_table_serves_all_rows_without_tags():
    meet = jnp.array([[[True, False], [True, True]]])
    walk, table = Walk(2, 2, 1), visits(meet)
    assert walk.row(7) == 0
    found = [bool(walk.at(table, 7, *pair).meet) for pair in np.ndindex(2, 2)]
    assert found == [True, False, True, True]
