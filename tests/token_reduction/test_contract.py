"""What every method owes, whatever it chooses by: the same checks over all of them.

A method comes in by a line of `METHODS`: its name, and what makes it of a share to
keep. `MERGING` are those whose tokens are sums, so that keeping all changes them.
"""

import dataclasses
import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from tests.token_reduction import pictures
from tests.token_reduction.pictures import CONFIG, PARAMS, PATCHES, PLAIN
from visor_jax.models.decoder.token_reducer import TokenReducer
from visor_jax.models.vision.crop_features import (
    reads_of,
)
from visor_jax.models.vlm import VLM
from visor_jax.token_reduction.crop_method import CropMethod
from visor_jax.token_reduction.crops.controls import BaseView, Random, Uniform
from visor_jax.token_reduction.crops.divprune import DivPrune
from visor_jax.token_reduction.crops.fastervlm import FasterVLM
from visor_jax.token_reduction.crops.hired import HiRED
from visor_jax.token_reduction.crops.prumerge import PruMerge, PruMergePlus
from visor_jax.token_reduction.crops.repulsion import Repulsion
from visor_jax.token_reduction.crops.todre import ToDRE
from visor_jax.token_reduction.crops.visionzip import VisionZip
from visor_jax.token_reduction.crops.vispruner import VisPruner
from visor_jax.token_reduction.crops.vscan import VScan
from visor_jax.token_reduction.select import top

METHODS = {
    "random": Random,
    "uniform": Uniform,
    "base_view": BaseView,
    "fastervlm": FasterVLM,
    "visionzip": VisionZip,
    "vispruner": VisPruner,
    "hired": HiRED,
    "prumerge": PruMerge,
    "prumerge_plus": PruMergePlus,
    "divprune": DivPrune,
    "todre": ToDRE,
    # The tower has two layers.
    "vscan": functools.partial(VScan, local_layer=0),
    "repulsion": Repulsion,
}
# Their tokens are sums of others even if none is dropped.
MERGING = {"prumerge", "prumerge_plus"}
# Keep fewer than they may: outliers alone; what a tile cannot use is lost.
FRUGAL = {"prumerge", "hired"}
# Write down what every patch is to every other one.
ALL_PAIRS = {"vispruner"}

PLAIN_BATCH = pictures.batch_of(PLAIN)
SHARE = 0.3


@functools.partial(jax.jit, static_argnums=0)
def on_crops(method, crops):
    """Returns what a method makes of crops, and which tokens stay."""
    found = method.on_crops(crops)
    return found, found.kept_tokens()


@functools.cache
def crops(which=None):
    """Returns what is known of all pictures, or of one of them by itself."""
    if which is None:
        return pictures.read(PLAIN_BATCH)
    return pictures.read(pictures.alone(PLAIN_BATCH, which, PLAIN[which]))


@functools.cache
def reduced(method):
    return on_crops(method, crops())


def kept_of(method, row):
    """Returns which of a prompt's image tokens stay."""
    return np.flatnonzero(reduced(method)[1][row])


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


def test_a_method_is_what_the_network_takes(name):
    method = METHODS[name]()
    assert isinstance(method, TokenReducer)
    assert method == METHODS[name]()
    assert hash(method) == hash(METHODS[name]())
    fields = dataclasses.fields(method)
    plain = (str, int, float, bool, type(None))
    assert all(type(field.default) in plain for field in fields)
    assert type(method).__doc__


@pytest.mark.parametrize("keep", [0, -0.5, 1.5, 1e-6, float("nan")])
def test_a_share_that_is_none_is_refused(name, keep):
    with pytest.raises(ValueError, match=rf"keep={keep} must be a share"):
        METHODS[name](keep=keep)


def check_budget(method, spare=lambda part: part.count):
    """...of every image by itself; `spare` newlines and rounding may be left over."""
    longest, *others = method.image_lengths(PLAIN_BATCH.image_mask.shape[1], 6)
    assert others == [longest] * 5
    assert reduced(method)[1].sum(axis=1).max() <= longest
    for row, part in enumerate(PLAIN):
        kept, most = kept_of(method, row), int(SHARE * part.count)
        assert kept.max() < part.count
        assert most - spare(part) <= len(kept) <= most


def test_the_budget_is_kept_and_used(name):
    def spare(part):
        # A share is rounded down in every crop, and a row may end with none.
        return part.count if name in FRUGAL else part.crops + part.crops * 6

    check_budget(METHODS[name](keep=SHARE), spare)


def test_a_row_ends_with_a_newline_if_it_keeps_a_token(name):
    part, kept = PLAIN[0], set(kept_of(METHODS[name](keep=SHARE), 0))
    place, rows = PATCHES, []
    for end in np.flatnonzero(part.index == -1):
        rows.append((bool(kept & set(range(place, end))), end in kept))
        place = end + 1
    with_token, with_end = np.array(rows).T
    assert len(rows) > 8
    assert not (with_end & ~with_token).any()
    # As many as there is room for, the first ones first.
    ends = with_end[with_token]
    assert (np.diff(ends.astype(int)) <= 0).all()


def test_newlines_can_all_go():
    for row, part in enumerate(PLAIN):
        kept = kept_of(Uniform(keep=SHARE, newlines="drop"), row)
        assert len(kept) > 0
        assert (part.index[kept] != -1).all()


def check_alone(method, row=1):
    """...against the same image among others: more crops, more padding."""
    (whole, _), (found, kept) = reduced(method), on_crops(method, crops(row))
    np.testing.assert_array_equal(np.flatnonzero(kept[0]), kept_of(method, row))
    stays, count = np.asarray(found.keep[0]), PLAIN[row].crops
    np.testing.assert_array_equal(stays, whole.keep[row, :count])
    np.testing.assert_allclose(
        np.asarray(found.features[0])[stays],
        np.asarray(whole.features[row, :count])[stays],
        **tolerances.REORDERED,
    )


def test_each_image_keeps_what_it_keeps_alone(name):
    check_alone(METHODS[name](keep=SHARE))


@dataclasses.dataclass(frozen=True)
class Careless(CropMethod):
    """Looks at what is none of its business: the row of the batch, or no budget."""

    by_row: bool = True

    def select(self, crops, budgets):
        there = crops.packing.there
        if not self.by_row:
            return crops.replace(keep=there)
        place = jnp.arange(there.shape[2]) + jnp.arange(len(there))[:, None, None]
        scores = jnp.broadcast_to((place % 7).astype(jnp.float32), there.shape)
        return crops.replace(keep=top(scores, there, budgets))


def test_a_careless_method_is_found():
    with pytest.raises(AssertionError):
        check_alone(Careless(keep=SHARE))
    with pytest.raises(AssertionError):
        check_budget(Careless(keep=SHARE, by_row=False))


def test_to_keep_all_is_to_change_nothing(name):
    """...so that logits are those without a method, but of those that merge."""
    if name in FRUGAL:
        pytest.skip("keeps outliers alone, or what a tile's budget leaves")
    found, kept = on_crops(METHODS[name](keep=1.0), crops())
    np.testing.assert_array_equal(kept, PLAIN_BATCH.image_mask)
    same = np.array_equal(found.features, crops().features)
    assert same == (name not in MERGING)


def all_pairs(function, *arguments, patches):
    """Returns the shapes in a program with more than one axis as long as a crop."""
    found, rest = set(), [jax.make_jaxpr(function)(*arguments).jaxpr]
    while rest:
        for equation in rest.pop().eqns:
            shapes = [v.aval.shape for v in equation.outvars]
            found |= {s for s in shapes if sum(n >= patches for n in s) > 1}
            rest += jax.extend.core.jaxprs_in_params(equation.params)
    return found


def test_no_array_holds_all_pairs_of_patches(name):
    side = 27
    per_crop = side * side
    abstract = jax.eval_shape(
        lambda: pictures.random_crops(PLAIN_BATCH, per_crop=per_crop)
    )
    method = METHODS[name](keep=0.25)
    found = all_pairs(method.on_crops, abstract, patches=per_crop)
    assert bool(found) == (name in ALL_PAIRS), found


def test_nothing_is_read_that_a_method_does_not_name(name):
    """...so the tower of a method that reads features alone is the plain one."""
    reads = reads_of(METHODS[name]())

    def tower(model, pixels):
        return model.vision_tower.read_samples(pixels, reads)

    run = functools.partial(VLM(CONFIG).apply, PARAMS, method=tower)
    _, parts = jax.eval_shape(run, PLAIN_BATCH.pixels)
    assert set(parts.attention) == set(reads.attention)
    assert set(parts.features) == set(reads.features)
