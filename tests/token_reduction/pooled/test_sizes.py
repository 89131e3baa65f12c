"""Pooled methods: their sizes, their errors, and the lower resolution."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from tests.token_reduction import pictures
from tests.token_reduction.pictures import PLAIN
from tests.token_reduction.pooled.test_pooled import (
    BATCH,
    SIDE,
    WIDTH,
    found_by,
    on_tokens,
)
from tests.token_reduction.test_contract import all_pairs
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.images.patch_index import NEWLINE, anyres_patch_index
from visor_jax.models.decoder.token_reducer import TokenReducer
from visor_jax.models.vlm import VLM
from visor_jax.token_reduction.pooled.ldpv2 import LDPv2
from visor_jax.token_reduction.pooled.lower_resolution import LowerResolution
from visor_jax.token_reduction.pooled.m3 import M3, chain
from visor_jax.token_reduction.pooled.visor_tr import RowPacking, RowPooling


@pytest.mark.parametrize(
    "method",
    [
        *(RowPooling(factor=factor, grid=27) for factor in (2, 4)),
        *(M3(tokens=each, scales=(27, 9, 3, 1), grid=27) for each in (9, 3, 1)),
        LDPv2(tokens=14, grid=27),
    ],
    ids=repr,
)
def test_there_is_room_for_all_windows_and_newlines_of_real_pictures(method):
    settings = ImageSettings(
        tile_size=384,
        patch_size=14,
        pinpoints=tuple((384 * r, 384 * c) for r in range(1, 7) for c in range(1, 7)),
        max_tiles=9,
    )
    share = [share.as_integer_ratio() for share in method.shares]
    for height, width in itertools.product((90, 384, 700, 2300), repeat=2):
        part = anyres_patch_index(height, width, settings)
        rows = int((part.index.reshape(part.count, -1)[:, 0] == NEWLINE).sum())
        columns = (part.count - 729 - rows) // rows
        (down, across), ((a, b), (c, d)) = (rows, columns), share
        down, across = down * a // b, across * c // d
        if down == 0:
            down, across = 1, max(1, rows * columns * a * c // (b * d))
        base = (27 * a // b) * (27 * c // d)
        needed = base + down * across + down
        if columns >= 27:
            assert needed <= method.image_lengths(part.count, 1)[0]


def test_scales_are_chains_of_divisors():
    assert chain(24) == (24, 12, 6, 3, 1)
    assert chain(27) == (27, 9, 3, 1)
    config = pictures.CONFIG
    fitted = M3().fitted(config)
    assert (fitted.tokens, fitted.scales, fitted.grid) == (6, (6, 3, 1), 6)
    assert [each.tokens for each in fitted.drawn()] == [6, 3, 1]
    assert LDPv2().fitted(config).tokens == 3
    assert isinstance(fitted, TokenReducer)


def test_a_lower_resolution_is_a_smaller_picture_in_a_smaller_tower():
    method, config = LowerResolution(tokens=3, grid=SIDE), pictures.CONFIG
    batch = pictures.batch_of([PLAIN[2]])
    tokens = pictures.encode(method, batch)
    small = config.replace(
        vision=dataclasses.replace(config.vision, image_size=3 * pictures.PATCH)
    )
    params = jax.tree.map(lambda x: x, pictures.PARAMS["params"])
    embeddings = params["vision_tower"]["embeddings"]
    table = embeddings["position_embedding"]["embedding"]
    table = jax.image.resize(table.reshape(SIDE, SIDE, -1), (3, 3, 16), "linear")
    embeddings["position_embedding"] = {"embedding": table.reshape(9, -1)}
    pixels = jax.image.resize(batch.pixels, (1, 2, 12, 12, 3), "linear")
    index = np.concatenate([np.arange(9), [18], np.arange(9, 18), [18]])
    index = jnp.int32(index)[None]

    @jax.jit
    def expected_of(params, pixels):
        return VLM(small).apply(
            {"params": params}, pixels, index, method=VLM.encode_image
        )

    wanted = expected_of(params, pixels).hidden[0]
    there = np.asarray(tokens.there)[0]
    np.testing.assert_allclose(
        np.asarray(tokens.hidden)[0][there], wanted, **tolerances.REORDERED
    )
    kept = [*range(0, 36, 2)]
    rows = [i for i in kept if i // SIDE % 2 == 0]
    assert np.asarray(tokens.kept)[0][there][:9].tolist() == rows


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RowPooling(factor=0), "factor=0 must be at least 1"),
        (lambda: RowPooling(newlines="some"), "newlines='some' is not one of"),
        (lambda: M3(scales=(3, 6)), r"scales=3\+6 must be descending"),
        (lambda: M3(scales=(6, 3), tokens=2), r"tokens=2 is not one of scales=6\+3"),
        (lambda: M3(scales=(9, 3)).fitted(pictures.CONFIG), "scales begin with 9"),
        (lambda: LDPv2(tokens=7).fitted(pictures.CONFIG), "tokens=7, but a crop has 6"),
        (lambda: LDPv2(tokens=0), "tokens=0 must be at least 1"),
        (lambda: RowPooling(grid=5).fitted(pictures.CONFIG), "grid=5, but the"),
        (lambda: RowPooling().image_lengths(9, 2), "say of which network"),
        (
            lambda: found_by(RowPooling(grid=5)),
            "is for crops of 5 x 5 patches, and these have 36",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_no_array_holds_all_pairs_of_tokens():
    packing = pictures.packing_of(BATCH)
    many = 700
    wide = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((x.shape[0], many), x.dtype), packing
    )
    wide = wide.replace(per_crop=729, crops=2)
    hidden = jax.ShapeDtypeStruct((len(PLAIN), many, WIDTH), jnp.float32)
    for method in (RowPacking(grid=27), LDPv2(grid=27, tokens=14)):
        run = functools.partial(on_tokens, method)
        assert not all_pairs(run, wide, hidden, patches=many)
