"""What a token reducer is told of crops: packing, and what it reads of the tower."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny, tolerances
from tests.token_reduction.pictures import PLAIN, RESIZED, batch_of, packing_of
from visor_jax.models.vision import siglip
from visor_jax.models.vision.crop_features import (
    CropFeatures,
    Packing,
    TowerReads,
    image_digest,
)
from visor_jax.models.vlm import VLM

CONFIG = tiny.VISOR
PARAMS = tiny.params_of(CONFIG)
READS = TowerReads(attention=(0, -1), features=(0, -1))


@jax.jit
def known(packing):
    """Returns all that a packing says of itself, as arrays."""
    names = ("there", "is_newline", "row", "has_base", "tile_grid", "patch")
    return {name: getattr(packing, name) for name in names}


def test_packing_knows_tiles_rows_and_the_base():
    packing = known(packing_of(batch_of(PLAIN)))
    assert packing["has_base"].tolist() == [True, True, False]
    assert packing["tile_grid"][:2].tolist() == [[2, 2], [1, 2]]
    for row, part in enumerate(PLAIN):
        places = np.flatnonzero(packing["there"][row])
        np.testing.assert_array_equal(places, np.sort(part.index[part.index >= 0]))
        ends = np.flatnonzero(packing["is_newline"][row])
        np.testing.assert_array_equal(ends, np.flatnonzero(part.index == -1))
        before = np.cumsum(part.index == -1) - (part.index == -1)
        np.testing.assert_array_equal(packing["row"][row, : part.count], before)


def test_every_token_of_a_resized_grid_has_a_patch_of_its_own():
    packing = known(packing_of(batch_of(RESIZED)))
    assert packing["has_base"].tolist() == [True, True]
    for row, part in enumerate(RESIZED):
        ends = int(np.asarray(packing["is_newline"][row]).sum())
        assert int(packing["there"][row].sum()) == part.count - ends
        weights = part.with_corners().weights
        nearest = part.with_corners().index[np.arange(part.count), weights.argmax(1)]
        own = nearest >= 0
        found = np.asarray(packing["patch"])[row, : part.count]
        np.testing.assert_array_equal(found[own], nearest[own])


def test_a_merged_patch_is_a_token_alone_and_no_share_of_others():
    index = jnp.asarray([[[4, 5, 9, 10], [5, 6, 10, 11], [16, 0, 0, 0]]])
    weights = jnp.asarray(
        [[[0.1, 0.6, 0.1, 0.2], [0.25, 0.5, 0.15, 0.1], [1, 0, 0, 0]]]
    )
    packing = Packing.of(index, weights, None, crops=1, per_crop=16)
    merged = (jnp.arange(16) == 5)[None, None]
    crops = CropFeatures(jnp.zeros((1, 1, 16, 2)), merged, None, merged, packing)
    found = crops.unmixed_weights(index, weights)
    expected = [[[0, 1, 0, 0], [0, 2 / 3, 0.2, 2 / 15], [1, 0, 0, 0]]]
    np.testing.assert_allclose(found, expected, **tolerances.REORDERED)
    assert crops.kept_tokens().tolist() == [[True, False, True]]


def test_a_digest_is_of_the_image_alone():
    pixels = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 3)).astype(np.float32)
    pixels[0, 2] = 0
    found = image_digest(jnp.asarray(pixels))
    assert image_digest(jnp.asarray(pixels[:1, :2])) == found[0]
    assert found[0] != found[1]


def read(pixels, at_once, monkeypatch):
    monkeypatch.setattr(siglip, "PATCHES_AT_ONCE", at_once)

    def tower(model, pixels):
        return model.vision_tower.read_samples(pixels, READS)

    # Of a new function: what was compiled before knew another limit.
    return jax.jit(functools.partial(VLM(CONFIG).apply, PARAMS, method=tower))(pixels)


def test_what_is_read_is_what_the_layers_have(monkeypatch):
    """All crops at once and in groups, the last of which is filled up."""
    batch = tiny.random_batch(CONFIG, crops=3)
    pixels = batch.pixels
    whole = read(pixels, 10**6, monkeypatch)
    grouped = read(pixels, 2 * len(pixels) * CONFIG.vision.num_patches, monkeypatch)
    for one, other in zip(
        jax.tree.leaves(whole), jax.tree.leaves(grouped), strict=True
    ):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, **tolerances.REORDERED)
    features, parts = whole
    np.testing.assert_array_equal(parts.features[-1], features)
    # The last block's queries and keys, of the features before it.
    block = PARAMS["params"]["vision_tower"]["encoder"]["layers_1"]
    x = np.asarray(parts.features[0], np.float64)
    norm = block["layer_norm1"]
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    x = (x - mean) / np.sqrt(variance + 1e-6) * norm["scale"] + norm["bias"]
    for name in ("query", "key"):
        dense = block["self_attn"][f"{name[0]}_proj"]
        expected = x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
        found = np.asarray(getattr(parts.attention[-1], name))
        np.testing.assert_allclose(
            found.reshape(expected.shape), expected, **tolerances.REFERENCE
        )


@pytest.mark.parametrize("layer", [2, -3])
def test_a_layer_that_is_not_there_is_named(layer):
    with pytest.raises(ValueError, match=rf"no layers \[{layer}\]: it has 2"):
        TowerReads(features=(layer,)).of_layer((0, layer), 0, 2)
