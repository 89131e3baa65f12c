"""Methods that cover a picture: ToDRE, VScan and repulsion, against lists in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from tests.token_reduction import oracles
from tests.token_reduction.crops.test_methods import CROPS, KEEP, check_kept, found_by
from tests.token_reduction.pictures import PLAIN
from visor_jax.token_reduction.crops.repulsion import Repulsion
from visor_jax.token_reduction.crops.todre import ToDRE
from visor_jax.token_reduction.crops.vscan import VScan

SIDE = 6


def greedy(first, cost_of, start, count):
    """Returns indices: the least of `first`, then of `start` and costs of pairs."""
    chosen = [int(np.argmin(first))] if count else []
    while len(chosen) < count:
        cost = start + sum(cost_of[index] for index in chosen)
        cost[chosen] = np.inf
        chosen.append(int(np.argmin(cost)))
    return chosen


def test_todre_keeps_what_is_least_like_the_chosen():
    def choose(places, budget, query, key, features):
        alike = oracles.cosines(features[places])
        first = -oracles.received(query, key)[places]
        return places[greedy(first, alike, np.zeros(len(places)), budget)]

    check_kept(ToDRE(keep=KEEP), choose)


def test_todre_of_the_image_begins_in_the_first_crop():
    budgets, found = found_by(ToDRE(keep=KEEP, scope="image"))
    there = np.asarray(CROPS.packing.there)
    pair = CROPS.tower.attention[-1]
    for row in range(len(PLAIN)):
        places = np.flatnonzero(there[row])
        query, key = (np.asarray(x)[row, 0] for x in (pair.query, pair.key))
        scores = oracles.received(query, key)
        first = np.where(places < 36, -scores[np.minimum(places, 35)], 1)
        alike = oracles.cosines(np.asarray(CROPS.features)[row].reshape(-1, 16)[places])
        count = int(budgets[row].sum())
        expected = places[greedy(first, alike, np.zeros(len(places)), count)]
        np.testing.assert_array_equal(np.flatnonzero(found.keep[row]), sorted(expected))


def energies(features, places, *, by_place=0.5, by_content=0.5, reach=2.0, heat=0.1):
    at = np.stack([places // SIDE, places % SIDE], axis=1).astype(float)
    square = ((at[:, None] - at) ** 2).sum(axis=-1)
    cosine = oracles.cosines(features[places])
    return by_place * np.exp(-square / (2 * reach**2)) + by_content * np.exp(
        (cosine - 1) / heat
    )


@pytest.mark.parametrize("field", [0.0, 0.3])
def test_repulsion_keeps_what_has_the_least_energy(field):
    def choose(places, budget, query, key, features):
        energy = energies(features, places)
        start = -field * 36 * oracles.received(query, key)[places]
        others = energy.sum(axis=1) - np.diag(energy)
        return places[greedy(start + others, energy, start, budget)]

    check_kept(Repulsion(keep=KEEP, field=field), choose)


def test_repulsion_by_place_alone_is_a_lattice():
    """...as even as a choice one by one can be: no two stand side by side."""
    budgets, found = found_by(Repulsion(keep=0.2, by_content=0.0, reach=1.0))
    rows, columns = np.divmod(np.flatnonzero(found.keep[0, 0]), SIDE)
    assert int(budgets[0, 0]) == len(rows) > 4
    apart = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    assert apart[~np.eye(len(rows), dtype=bool)].min() > 1


def test_repulsion_in_a_strong_field_keeps_the_best():
    def choose(places, budget, query, key, _):
        scores = oracles.received(query, key)[places]
        return [places[i] for i in oracles.descending(scores)[:budget]]

    check_kept(Repulsion(keep=KEEP, field=1e4), choose)


def window_of(place, windows):
    return place // SIDE * windows // SIDE, place % SIDE * windows // SIDE


def scanned(places, budget, query, key, features, *, official, windows):
    """Returns {place: features} of what stays: both scans, and what joins them."""
    scores = oracles.received(query, key)
    local, each = budget // 2, budget // 2 // windows**2
    best = [places[i] for i in oracles.descending(scores[places])]
    chosen = []
    for window in np.ndindex(windows, windows):
        inside = [place for place in best if window_of(place, windows) == window]
        chosen += inside[:each]
    left = budget - (local if official else len(chosen))
    chosen += [place for place in best if place not in chosen][:left]
    chosen = sorted(chosen)
    alike, joined = oracles.cosines(features), {place: [] for place in chosen}
    for place in places:
        if place not in joined:
            joined[chosen[int(np.argmax(alike[place, chosen]))]].append(features[place])
    return {
        place: (features[place] + sum(others)) / (1 + len(others))
        for place, others in joined.items()
    }


@pytest.mark.parametrize("official", [False, True])
def test_vscan_keeps_windows_and_the_whole_and_averages_the_rest(official):
    # The random crops have the same attention in both layers.
    method = VScan(keep=KEEP, windows=2, local_layer=0, official=official)
    scan = functools.partial(scanned, official=official, windows=2)
    found = check_kept(method, lambda *crop: list(scan(*crop)))
    budgets, _ = found_by(method)
    for row, crop, *rest in oracles.crops_of(CROPS, budgets):
        if len(rest[0]):
            for place, value in scan(*rest).items():
                np.testing.assert_allclose(
                    found.features[row, crop, place], value, **tolerances.REORDERED
                )


def test_vscan_shares_as_its_authors():
    """64 of 576: 32 in 16 windows and 32; 48: 16 of 24, and 24 or 32."""
    scores = jax.random.uniform(jax.random.key(0), (1, 1, 576))
    there = jnp.ones(scores.shape, bool)
    for total, expected in ((64, 32), (48, 16)):
        each = jnp.full((1, 1), total // 2 // 16)
        chosen = np.asarray(VScan().of_windows(scores, there, each))[0, 0]
        assert chosen.sum() == expected
        per_window = chosen.reshape(4, 6, 4, 6).sum(axis=(1, 3))
        assert (per_window == expected // 16).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ToDRE(features="none"), "features='none' is not one of"),
        (lambda: VScan(windows=0), "windows=0 must be at least 1"),
        (lambda: Repulsion(heat=0), "heat=0 must be above 0"),
        (lambda: Repulsion(field=-1), "field=-1 must not be negative"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_attention_is_read_only_where_there_is_a_field():
    assert Repulsion().tower_reads.attention == ()
    assert Repulsion(field=1.0).tower_reads.attention == (-1,)
