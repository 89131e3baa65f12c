"""Choosing and clustering against NumPy: ties, and rows with counts of their own."""

import jax
import jax.numpy as jnp
import numpy as np

from tests import tolerances
from tests.token_reduction import numpy_methods
from visor_jax.token_reduction.clusters import cluster_means
from visor_jax.token_reduction.select import top


def test_rows_choose_as_many_as_they_may_and_the_lower_of_equals():
    rng = np.random.default_rng(0)
    # Few different scores: many ties.
    scores = rng.integers(0, 4, (6, 17)).astype(np.float32)
    valid, counts = rng.random((6, 17)) < 0.8, np.array([0, 1, 5, 9, 17, 3])
    found = jax.jit(top)(scores, valid, jnp.asarray(counts))
    for row, own, count in zip(range(6), valid, counts, strict=True):
        there = np.flatnonzero(own)
        best = there[numpy_methods.best(scores[row][there], count)]
        np.testing.assert_array_equal(np.flatnonzero(found[row]), best)


def test_clusters_are_numpys_whatever_stands_beside_them():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(5, 8))
    hidden = centres[rng.integers(0, 5, (4, 40))] + 0.2 * rng.normal(size=(4, 40, 8))
    hidden = hidden.astype(np.float32)
    there = np.zeros((4, 40), bool)
    sizes, clusters = (40, 31, 12, 1), np.array([5, 4, 2, 1])
    for row, size in enumerate(sizes):
        there[row, rng.permutation(40)[:size]] = True
    found = jax.jit(cluster_means, static_argnums=3)(
        hidden, jnp.asarray(there), jnp.asarray(clusters), 5
    )
    for row, count in enumerate(clusters):
        own = hidden[row][there[row]].astype(np.float64)
        means = numpy_methods.cluster(own, count)
        np.testing.assert_allclose(found[row, :count], means, **tolerances.REFERENCE)
        assert not np.any(found[row, count:])
        # Not one mean of everything.
        assert count == 1 or np.abs(means - own.mean(axis=0)).max() > 0.1
