"""Batches of pictures as the host packs them: tiles, newlines, padding, mixed sizes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests import tiny
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.images.patch_index import (
    NEWLINE,
    PatchIndex,
    anyres_patch_index,
    square_patch_index,
)
from visor_jax.models.vision.crop_features import (
    CropFeatures,
    Packing,
    QueryKey,
    TowerParts,
    TowerReads,
    image_digest,
)
from visor_jax.models.vlm import VLM

TILE, PATCH = 24, 4
# 36 patches in a crop, two layers.
CONFIG = tiny.VISOR.replace(
    vision=dataclasses.replace(tiny.VISION, image_size=TILE, patch_size=PATCH)
)
PATCHES = CONFIG.vision.num_patches
PARAMS = tiny.params_of(CONFIG)


def settings(max_tiles=9):
    grids = tuple((TILE * r, TILE * c) for r in range(1, 3) for c in range(1, 3))
    return ImageSettings(
        tile_size=TILE, patch_size=PATCH, pinpoints=grids, max_tiles=max_tiles
    )


def several_images(count):
    return PatchIndex.concat([square_patch_index(settings())] * count, PATCHES)


# Four tiles without their outer rows; two tiles; two images of one crop each.
PLAIN = (
    anyres_patch_index(36, 48, settings()),
    anyres_patch_index(20, 48, settings()),
    several_images(2),
)
# Four tiles resized to the size of two, and two tiles that are left alone.
RESIZED = (
    anyres_patch_index(48, 48, settings(2)),
    anyres_patch_index(20, 48, settings(2)),
)


def batch_of(parts, *, seed=0, padding=3, before=2, crops=None):
    """Returns a batch with a prompt about each of these pictures."""
    crops = max(part.crops for part in parts) if crops is None else crops
    samples = [
        tiny.Sample(before=before, image=part.count, questions=(3 + row,))
        for row, part in enumerate(parts)
    ]
    batch = tiny.random_batch(CONFIG, samples, seed=seed, crops=crops, padding=padding)
    if any(part.weights is not None for part in parts):
        parts = [part.with_corners() for part in parts]
    shape = (*batch.image_mask.shape, *parts[0].index.shape[1:])
    index, pixels = np.zeros(shape, np.int32), batch.pixels.copy()
    weights = None if parts[0].weights is None else np.zeros(shape, np.float32)
    for row, part in enumerate(parts):
        newline = crops * PATCHES
        found = np.where(part.index == NEWLINE, newline, part.index)
        index[row, : part.count] = found
        if weights is not None:
            weights[row, : part.count] = part.weights
        pixels[row, part.crops :] = 0
    return batch.replace(
        pixels=pixels, image_token_index=index, image_token_weights=weights
    )


def alone(batch, row, part, *, padding=1):
    """Returns one row of a batch as a batch, without the others' padding."""
    one = batch_of([part], padding=padding)
    index = np.asarray(batch.image_token_index)[row : row + 1, : part.count + padding]
    ends = index == batch.pixels.shape[1] * PATCHES
    index = np.where(ends, part.crops * PATCHES, index)
    return one.replace(
        pixels=batch.pixels[row : row + 1, : part.crops], image_token_index=index
    )


@functools.partial(jax.jit, static_argnums=(0, 2))
def encode(reducer, batch, config=CONFIG, params=PARAMS):
    """Returns the `ImageTokens` that a reducer leaves."""
    return VLM(config, reducer).apply(
        params,
        *(batch.pixels, batch.image_token_index),
        *(batch.image_token_weights, batch.image_mask),
        method=VLM.encode_image,
    )


@functools.partial(jax.jit, static_argnums=1)
def packing_of(batch, per_crop=PATCHES):
    """Returns how the patches of a batch become tokens."""
    return Packing.of(
        *(batch.image_token_index, batch.image_token_weights, batch.image_mask),
        crops=batch.pixels.shape[1],
        per_crop=per_crop,
    )


@jax.jit
def read(batch):
    """Returns `CropFeatures` with all that any method may read of the tiny tower."""
    layers = (0, -1)
    reads = TowerReads(attention=layers, features=layers, digest=True)
    features, parts = VLM(CONFIG).apply(
        PARAMS,
        batch.pixels,
        method=lambda model, pixels: model.vision_tower.read_samples(pixels, reads),
    )
    return CropFeatures(
        features,
        jnp.ones(features.shape[:3], bool),
        packing=packing_of(batch),
        tower=parts,
        digest=image_digest(batch.pixels),
    )


def random_crops(batch, seed=1, per_crop=PATCHES):
    """Returns random crops that this batch packs, with all that a method may read."""
    rng, (size, crops) = np.random.default_rng(seed), batch.pixels.shape[:2]
    query, key = rng.normal(size=(2, size, crops, per_crop, 2, 8)).astype(np.float32)
    pair = QueryKey(jnp.asarray(query), jnp.asarray(key))
    features = rng.normal(size=(size, crops, per_crop, 16)).astype(np.float32)
    return CropFeatures(
        jnp.asarray(features),
        jnp.asarray(np.ones((size, crops, per_crop), bool)),
        packing=packing_of(batch, per_crop),
        tower=TowerParts({0: pair, -1: pair}, {}),
        digest=jnp.asarray(np.arange(size, dtype=np.uint32)),
    )


def kept_of(tokens, row):
    """Returns which of a prompt's image tokens stayed, ascending."""
    kept, there = np.asarray(tokens.kept)[row], np.asarray(tokens.there)[row]
    return kept[there]
