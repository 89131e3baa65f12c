"""What each method selects and merges, against its description in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from tests.token_reduction import oracles, pictures
from tests.token_reduction.pictures import PATCHES, PLAIN, random_crops
from visor_jax.token_reduction.crops.controls import BaseView, Random, Uniform
from visor_jax.token_reduction.crops.divprune import DivPrune
from visor_jax.token_reduction.crops.fastervlm import FasterVLM
from visor_jax.token_reduction.crops.prumerge import (
    PruMerge,
    PruMergePlus,
    official_step,
    outliers,
)
from visor_jax.token_reduction.crops.visionzip import VisionZip
from visor_jax.token_reduction.crops.vispruner import VisPruner, diverse_rounds

PLAIN_BATCH = pictures.batch_of(PLAIN)
CROPS = random_crops(PLAIN_BATCH)
KEEP = 0.4


@functools.partial(jax.jit, static_argnums=0)
def run(method, crops):
    budgets, _ = method.budgets(crops.packing)
    return budgets, method.select(crops, budgets)


@functools.cache
def found_by(method):
    """Returns the budgets and what the method makes of the random crops."""
    return run(method, CROPS)


def check_kept(method, choose):
    """Compares with `choose(places, budget, query, key, features)` of each crop."""
    budgets, found = found_by(method)
    chosen = {
        (row, crop): choose(places, *rest) if len(places) else []
        for row, crop, places, *rest in oracles.crops_of(CROPS, budgets)
    }
    assert sum(map(len, chosen.values())) > 20
    np.testing.assert_array_equal(found.keep, oracles.keep_map(CROPS, chosen))
    return found


def test_budgets_are_shares_of_what_makes_tokens():
    budgets, room = FasterVLM(keep=KEEP).budgets(CROPS.packing)
    for row, part in enumerate(PLAIN):
        ends = int((part.index == -1).sum())
        patches = [int((part.index // PATCHES == c).sum()) for c in range(part.crops)]
        total = part.count * 2 // 5
        left = min(total - ends, sum(patches) * 2 // 5)
        expected = [left * n // sum(patches) for n in patches]
        assert budgets[row, : part.crops].tolist() == expected
        assert not np.asarray(budgets[row, part.crops :]).any()
        assert room[row] == ends
    # 2 of 5 tokens of one picture of 36 and its newline.
    assert FasterVLM(keep=KEEP, newlines="drop").budgets(CROPS.packing)[1].max() == 0


def test_fastervlm_keeps_what_is_looked_at_most():
    def choose(places, budget, query, key, _):
        scores = oracles.received(query, key)
        return [places[i] for i in oracles.descending(scores[places])[:budget]]

    check_kept(FasterVLM(keep=KEEP), choose)


def test_uniform_keeps_every_nth():
    def choose(places, budget, *_):
        return [places[i * len(places) // budget] for i in range(budget)]

    check_kept(Uniform(keep=KEEP), choose)


def test_the_base_view_comes_first_and_tiles_as_far_as_they_go():
    budgets, found = found_by(BaseView(keep=KEEP))
    for row in range(len(PLAIN)):
        there = np.asarray(CROPS.packing.there)[row].reshape(-1)
        places = np.flatnonzero(there)[: int(budgets[row].sum())]
        np.testing.assert_array_equal(np.flatnonzero(found.keep[row]), places)


def test_random_depends_on_seed_and_image_alone():
    same, other = (
        np.asarray(found_by(Random(keep=KEEP, seed=seed))[1].keep) for seed in (0, 1)
    )
    assert (same != other).any()
    np.testing.assert_array_equal(same.sum(axis=2), other.sum(axis=2))
    # Two crops of an image are not alike.
    assert (same[0, 0] != same[0, 1]).any()
    swapped = CROPS.replace(digest=CROPS.digest[::-1])
    _, turned = run(Random(keep=KEEP, seed=0), swapped)
    assert (np.asarray(turned.keep) != same).any()
    np.testing.assert_array_equal(turned.keep[1], same[1])


def zipped(places, budget, query, key, features):
    """Returns (dominant, {target: merged features}) of a crop."""
    scores = oracles.received(query, key)
    count = int(budget * 0.84375)
    dominant = [places[i] for i in oracles.descending(scores[places])[:count]]
    rest = [place for place in places if place not in dominant]
    step = max(1, len(rest) // (budget - count))
    targets = rest[::step][: budget - count]
    metric = key.astype(np.float64).mean(axis=1)
    metric /= np.linalg.norm(metric, axis=1, keepdims=True)
    joined = {target: [] for target in targets}
    for place in rest:
        if place not in joined:
            likest = int(np.argmax(metric[targets] @ metric[place]))
            joined[targets[likest]].append(features[place])
    merged = {
        target: features[target] + np.mean(others, axis=0)
        for target, others in joined.items()
        if others
    }
    return dominant, targets, merged


def test_visionzip_keeps_the_dominant_and_merges_the_rest():
    method = VisionZip(keep=KEEP)
    found = check_kept(method, lambda *crop: [*zipped(*crop)[0], *zipped(*crop)[1]])
    budgets, _ = found_by(method)
    merged = np.zeros(CROPS.keep.shape, bool)
    expected = np.asarray(CROPS.features).copy()
    for row, crop, *rest in oracles.crops_of(CROPS, budgets):
        for place, value in (zipped(*rest)[2] if len(rest[0]) else {}).items():
            expected[row, crop, place] = value
            merged[row, crop, place] = True
    assert merged.sum() > 10
    np.testing.assert_array_equal(found.merged, merged)
    np.testing.assert_allclose(found.features, expected, **tolerances.REORDERED)


def pruned(places, budget, query, key, features, *, ratio=0.5):
    """Returns VisPruner's choice by lists, as it is described."""
    order = [
        places[i] for i in oracles.descending(oracles.received(query, key)[places])
    ]
    important = int(budget * ratio)
    rest, count = order[important:], budget - important
    alike = oracles.cosines(features)
    while len(rest) > count > 0:
        even, odd = rest[0::2], rest[1::2]
        nearest = [max(alike[a, b] for b in odd) for a in even]
        by_likeness = [even[i] for i in oracles.descending(nearest)]
        removed = min(8, len(rest) - count, len(even))
        rest = by_likeness[removed:] + odd
    return order[:important] + (rest if count else [])


def test_vispruner_keeps_the_important_and_the_diverse():
    method = VisPruner(keep=KEEP, important=0.75)
    check_kept(method, functools.partial(pruned, ratio=0.75))


all_rounds = jax.jit(diverse_rounds, static_argnums=4)


@pytest.mark.parametrize(("kept", "rounds"), [(128, 56), (64, 64), (32, 68)])
def test_vispruner_takes_as_many_rounds_as_its_authors(kept, rounds):
    """Of 576 patches, half of those kept are important: 512 shrink to 64 by 8."""
    alike = jax.random.normal(jax.random.key(0), (576, 576))
    _, left, found = all_rounds(
        alike, jnp.arange(576), jnp.int32(576 - kept // 2), jnp.int32(kept // 2), 8
    )
    assert (int(left), int(found)) == (kept // 2, rounds)


def test_divprune_keeps_the_farthest_apart():
    def choose(places, budget, query, key, features):
        distance = 1 - oracles.cosines(features[places])
        np.fill_diagonal(distance, np.inf)
        chosen = [int(np.argmax(distance.min(axis=1)))]
        while len(chosen) < budget:
            nearest = distance[:, chosen].min(axis=1)
            nearest[chosen] = -np.inf
            chosen.append(int(np.argmax(nearest)))
        return places[chosen]

    check_kept(DivPrune(keep=KEEP), choose)


def test_divprune_of_the_image_has_one_budget():
    method = DivPrune(keep=KEEP, scope="image", start="first")
    budgets, found = found_by(method)
    for row in range(len(PLAIN)):
        places = np.flatnonzero(CROPS.packing.there[row])
        features = np.asarray(CROPS.features)[row].reshape(-1, 16)
        distance = 1 - oracles.cosines(features[places])
        chosen = [0]
        while len(chosen) < int(budgets[row].sum()):
            nearest = distance[:, chosen].min(axis=1)
            nearest[chosen] = -np.inf
            chosen.append(int(np.argmax(nearest)))
        expected = sorted(places[chosen])
        np.testing.assert_array_equal(np.flatnonzero(found.keep[row]), expected)


def joined(query, key):
    return oracles.received(*(x.reshape(len(x), 1, -1) for x in (query, key)))


def prumerged(places, budget, query, key, features, *, fill):
    """Returns {place: features} of what stays of a crop."""
    scores = joined(query, key)
    first, third = np.quantile(scores[places], (0.25, 0.75))
    high = int((scores[places] > third + 1.5 * (third - first)).sum())
    order = [places[i] for i in oracles.descending(scores[places])]
    room = max(budget - 1, 0)
    kept = order[: min(high, room)]
    open_ = [place for place in places if place not in kept]
    kept = kept + fill(places, open_, room - len(kept), high)
    alike = oracles.cosines(key.reshape(len(key), -1))
    merged = {}
    for place in kept:
        others = sorted((-alike[place, j], j) for j in places if j != place)[:32]
        merged[place] = features[place] + sum(
            scores[j] * features[j] for _, j in others
        )
    gone = [place for place in places if place not in kept]
    if gone and budget:
        merged[gone[-1]] = sum(scores[j] * features[j] for j in gone)
    return merged


FILLS = {
    PruMerge(keep=KEEP): lambda *_: [],
    PruMergePlus(keep=KEEP): lambda _, open_, room, __: [
        open_[i * len(open_) // room] for i in range(room)
    ],
}


@pytest.mark.parametrize("method", FILLS, ids=lambda m: type(m).__name__)
def test_prumerge_merges_into_outliers(method):
    fill = FILLS[method]
    found = check_kept(method, lambda *crop: list(prumerged(*crop, fill=fill)))
    budgets, _ = found_by(method)
    for row, crop, *rest in oracles.crops_of(CROPS, budgets):
        if len(rest[0]):
            for place, value in prumerged(*rest, fill=fill).items():
                np.testing.assert_allclose(
                    found.features[row, crop, place], value, **tolerances.REORDERED
                )


def test_prumerge_plus_takes_the_authors_step_where_there_is_room():
    # 32 of 576 are outliers: int(1 / ratio) = 18, and a third of it.
    assert official_step(jnp.int32(576), jnp.int32(32)) == 6
    scores = np.linspace(0, 0.01, 36)
    scores[[3, 30]] = 1.0
    scores, there = jnp.float32(scores)[None, None], jnp.ones((1, 1, 36), bool)
    assert outliers(scores, there) == 2
    method = PruMergePlus(spacing="official")
    for budget, step in ((30, 6), (6, 9)):
        found = method.kept(scores, there, jnp.full((1, 1), budget))
        assert set(np.flatnonzero(found)) == {3, 30, *range(0, 36, step)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FasterVLM(newlines="some"), "newlines='some' is not one of"),
        (lambda: VisionZip(dominant=1.5), "dominant=1.5 must be a share"),
        (lambda: VisPruner(removed_each=0), "removed_each=0 must be at least 1"),
        (lambda: PruMerge(neighbours=0), "neighbours=0 must be at least 1"),
        (lambda: PruMergePlus(spacing="odd"), "spacing='odd' is not one of"),
        (lambda: DivPrune(scope="all"), "scope='all' is not one of"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"no layers \[7\]: it has 2"):
        jax.eval_shape(
            functools.partial(pictures.encode, FasterVLM(layer=7)), PLAIN_BATCH
        )
