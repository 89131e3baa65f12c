"""Choosing with static shapes: against lists, with many ties."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from tests import tolerances
from tests.token_reduction import oracles
from visor_jax.models.vision.crop_features import QueryKey
from visor_jax.token_reduction import select
from visor_jax.token_reduction.crops.divprune import nearest
from visor_jax.token_reduction.received_attention import received_attention

SIZE = 13
SCORES = st.lists(st.integers(0, 3), min_size=SIZE, max_size=SIZE)
THERE = st.lists(st.booleans(), min_size=SIZE, max_size=SIZE)
COUNT = st.integers(0, SIZE + 2)


@jax.jit
def everything(scores, there, count):
    return (
        *(select.top(scores, there, count), select.evenly_spaced(there, count)),
        select.every(there, jnp.maximum(count, 1), jnp.int32(3)),
    )


@hypothesis.given(SCORES, THERE, COUNT)
def test_choices_are_those_of_lists(scores, there, count):
    found = everything(jnp.float32(scores), jnp.array(there), jnp.int32(count))
    places = np.flatnonzero(there)
    order = oracles.descending(np.array(scores)[places])
    best = sorted(places[order[:count]])
    few = min(count, len(places))
    spaced = [places[i * len(places) // few] for i in range(few)]
    stepped = places[:: max(count, 1)][:3]
    for one, expected in zip(found, (best, spaced, stepped), strict=True):
        np.testing.assert_array_equal(np.flatnonzero(one), expected)


def test_indices_ascend_and_say_which_exist():
    chosen = jnp.array([[0, 1, 0, 1, 1], [0, 0, 1, 0, 0]], bool)
    index, valid = select.indices_of(chosen, 2)
    assert index[0].tolist() == [1, 3]
    assert valid.tolist() == [[True, True], [True, False]]
    assert index[1, 0] == 2


def test_a_greedy_choice_takes_the_lower_index_of_equals():
    cost = jnp.array([2.0, 1.0, 1.0, 3.0])
    pairs = jnp.array(
        [[0, 1, 5, 1], [1, 0, 2, 2], [5, 2, 0, 2], [1, 2, 2, 0]], jnp.float32
    )
    there = jnp.array([True, True, True, True])

    def chosen(count):
        return select.one_by_one(
            *(cost, jnp.zeros(4), lambda i: pairs[i], jnp.add),
            *(there, jnp.int32(count), 3),
        ).tolist()

    assert chosen(0) == [False] * 4
    assert chosen(1) == [False, True, False, False]
    # Of costs 1, -, 2, 2 the first; then 6 of index 2 against 3 of index 3.
    assert chosen(2) == [True, True, False, False]
    assert chosen(3) == [True, True, False, True]


def test_merged_values_are_written_at_their_targets_alone():
    features = jnp.zeros((4, 2))
    values = jnp.array([[1.0, 1.0], [2.0, 2.0]])
    found = select.merge_into(
        features, jnp.array([3, 0]), jnp.array([True, False]), values
    )
    assert found[:, 0].tolist() == [0, 0, 0, 1]


def test_received_attention_is_the_mean_of_a_map_in_blocks():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 2, 3, 10, 2, 4)).astype(np.float32) * 2
    pair = QueryKey(jnp.asarray(query), jnp.asarray(key))
    run = jax.jit(received_attention, static_argnames=("joined", "block"))
    # Blocks that part the rows, and not evenly.
    found = run(pair, block=4)
    one_head = run(pair, joined=True, block=4)
    for at in np.ndindex(2, 3):
        expected = oracles.received(query[at], key[at])
        np.testing.assert_allclose(found[at], expected, **tolerances.REORDERED)
        joined = [x[at].reshape(10, 1, 8) for x in (query, key)]
        np.testing.assert_allclose(
            one_head[at], oracles.received(*joined), **tolerances.REORDERED
        )
    assert np.abs(np.asarray(found) - one_head).max() > 1e-3
    np.testing.assert_allclose(found.sum(axis=-1), 1, **tolerances.REORDERED)


def test_the_nearest_neighbour_is_another_patch_that_is_there():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(1, 1, 140, 4)).astype(np.float32)
    there = rng.random((1, 1, 140)) < 0.5
    found = jax.jit(nearest)(select.unit(jnp.asarray(features)), jnp.asarray(there))
    alike = oracles.cosines(features[0, 0])
    np.fill_diagonal(alike, -np.inf)
    expected = alike[:, there[0, 0]].max(axis=1)
    np.testing.assert_allclose(found[0, 0], expected, **tolerances.REORDERED)
