"""Pooled methods against windows in NumPy, picture by picture, token by token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from tests.token_reduction import pictures
from tests.token_reduction.pictures import PATCHES, PLAIN, RESIZED
from visor_jax.data.images.patch_index import (
    NEWLINE,
    video_patch_index,
)
from visor_jax.models.vision.compressor import Compressor
from visor_jax.models.vision.crop_features import PackedTokens
from visor_jax.token_reduction.pooled.ldpv2 import LDPv2
from visor_jax.token_reduction.pooled.lower_resolution import LowerResolution
from visor_jax.token_reduction.pooled.m3 import M3
from visor_jax.token_reduction.pooled.visor_tr import RowPacking, RowPooling

SIDE, WIDTH = 6, 8
BATCH = pictures.batch_of(PLAIN)
TOKENS = BATCH.image_mask.shape
HIDDEN = np.random.default_rng(0).normal(size=(*TOKENS, WIDTH)).astype(np.float32)
METHODS = (
    RowPooling(factor=2, grid=SIDE),
    RowPooling(factor=4, grid=SIDE),
    M3(tokens=3, scales=(6, 3, 2, 1), grid=SIDE),
    M3(tokens=1, scales=(6, 3, 2, 1), grid=SIDE),
    RowPacking(factor=2, grid=SIDE),
    LDPv2(tokens=3, grid=SIDE),
    LDPv2(tokens=4, grid=SIDE),
    RowPooling(factor=2, grid=SIDE, newlines="drop"),
)
named = pytest.mark.parametrize("method", METHODS, ids=repr)


def module_of(method):
    """Returns the method's module and parameters of which none is trivial."""
    if method.compressor is None:
        return None, None
    module = Compressor(method.compressor, WIDTH, jnp.float32)
    tokens = jnp.zeros((1, 1, method.compressor.size, WIDTH))
    shapes = jax.eval_shape(module.init, jax.random.key(0), tokens)
    rng = np.random.default_rng(5)
    return module, jax.tree.map(
        lambda x: jnp.float32(rng.normal(size=x.shape) / 3), shapes
    )


@functools.partial(jax.jit, static_argnums=0)
def on_tokens(method, packing, hidden):
    module, params = module_of(method)
    compress = None if module is None else functools.partial(module.apply, params)
    tokens = PackedTokens(hidden, packing.valid, packing)
    return method.on_tokens(tokens, compress)


def found_by(method, batch=BATCH, hidden=HIDDEN):
    found = on_tokens(method, pictures.packing_of(batch), hidden)
    return np.asarray(found.keep), np.asarray(found.hidden)


def grids_of(part):
    """Returns grids of token numbers, and {newline: the tokens of its row}."""
    ends = np.flatnonzero(part.index.reshape(part.count, -1)[:, 0] == NEWLINE)
    begins = [0, *(ends + 1)] if part is PLAIN[2] else [PATCHES, *(ends + 1)]
    rows = [np.arange(b, e) for b, e in zip(begins[:-1], ends, strict=True)]
    if part is PLAIN[2]:
        grids = [row.reshape(SIDE, SIDE) for row in rows]
    else:
        grids = [np.arange(PATCHES).reshape(SIDE, SIDE), np.array(rows)]
    return grids, dict(zip(ends.tolist(), rows, strict=True))


def shares_of(method):
    if isinstance(method, RowPooling):
        return (1, 1), (1, method.factor)
    return (method.tokens, SIDE), (method.tokens, SIDE)


def windows_of(grid, method):
    """Returns {(row, column): {(row, column) inside: token}} of a grid."""
    (height, width), (rows, columns) = grid.shape, shares_of(method)
    down, across = height * rows[0] // rows[1], width * columns[0] // columns[1]
    area = max(1, height * width * rows[0] * columns[0] // (rows[1] * columns[1]))
    if down == 0:
        down, across = 1, area
    elif across == 0:
        down, across = area, 1
    found = {}
    for i, j in np.ndindex(height, width):
        place = i * down // height, j * across // width
        found.setdefault(place, []).append((j, grid[i, j]))
    assert len(found) == down * across
    return found


def packed(window, hidden, params, slots):
    """Returns what the layer makes of a window, column by column into its slots."""
    columns = sorted({j for j, _ in window})
    parts = [[] for _ in range(slots)]
    for j, token in window:
        place = columns.index(j) * slots // len(columns)
        parts[min(place, slots - 1)].append(hidden[token])
    whole = np.mean([hidden[token] for _, token in window], axis=0)
    means = [np.mean(part, axis=0) if part else whole for part in parts]
    return np.concatenate(means) @ params["kernel"] + params["bias"]


def expected(method, part, hidden):
    """Returns {token: its value} of the windows, and the newlines that stay."""
    _, params = module_of(method)
    params = None if params is None else jax.device_get(params["params"])
    grids, ends = grids_of(part)
    values = {}
    for grid in grids:
        windows = windows_of(grid, method)
        means = {
            place: np.mean([hidden[token] for _, token in each], axis=0)
            for place, each in windows.items()
        }
        for (i, j), each in windows.items():
            value = means[i, j]
            if isinstance(method, RowPacking):
                value = packed(each, hidden, params, method.factor)
            if isinstance(method, LDPv2):
                value = value + params["bias"]
                for a, b in np.ndindex(3, 3):
                    other = means.get((i + a - 1, j + b - 1), np.zeros(WIDTH))
                    value = value + params["kernel"][a * 3 + b] * other
            values[min(token for _, token in each)] = value
    kept = [end for end, row in ends.items() if set(row.tolist()) & set(values)]
    return values, [] if method.newlines == "drop" else kept


@named
def test_windows_make_what_numpy_makes_of_them(method):
    keep, hidden = found_by(method)
    longest = method.image_lengths(TOKENS[1], 3)[0]
    for row, part in enumerate(PLAIN):
        values, ends = expected(method, part, HIDDEN[row])
        assert len(values) > 1
        np.testing.assert_array_equal(
            np.flatnonzero(keep[row]), sorted([*values, *ends])
        )
        assert keep[row].sum() <= method.image_lengths(part.count, 3)[0] <= longest
        for token, value in values.items():
            np.testing.assert_allclose(
                hidden[row, token], value, **tolerances.REORDERED
            )
        np.testing.assert_array_equal(hidden[row, ends], HIDDEN[row, ends])


@pytest.mark.parametrize("method", [METHODS[i] for i in (0, 4, 6)], ids=repr)
def test_each_image_makes_what_it_makes_alone(method):
    keep, hidden = found_by(method)
    for row in (1, 2):
        part = PLAIN[row]
        batch = pictures.alone(BATCH, row, part)
        own = HIDDEN[row : row + 1, : part.count + 1]
        alone, values = found_by(method, batch, own)
        count = part.count
        np.testing.assert_array_equal(alone[0, :count], keep[row, :count])
        stays = alone[0, :count]
        np.testing.assert_allclose(
            values[0, :count][stays], hidden[row, :count][stays], **tolerances.REORDERED
        )


@pytest.mark.parametrize(
    "method",
    [
        RowPooling(factor=1, grid=SIDE),
        M3(tokens=SIDE, scales=(6, 1), grid=SIDE),
        LowerResolution(tokens=SIDE, grid=SIDE),
    ],
    ids=lambda method: type(method).__name__,
)
def test_one_token_of_one_is_no_change(method):
    keep, hidden = found_by(method)
    np.testing.assert_array_equal(keep, BATCH.image_mask)
    np.testing.assert_array_equal(hidden[keep], HIDDEN[keep])
    assert method.image_lengths(99, 2) == (99, 99)


def test_a_resized_grid_is_pooled_as_the_host_has_made_it():
    """Its rows and columns are those of tokens, not of the patches they come from."""
    method, batch = M3(tokens=3, scales=(6, 3), grid=SIDE), pictures.batch_of(RESIZED)
    hidden = np.random.default_rng(1).normal(size=(*batch.image_mask.shape, WIDTH))
    keep, found = found_by(method, batch, hidden.astype(np.float32))
    values, ends = expected(method, RESIZED[0].with_corners(), hidden[0])
    # Newlines of a resized grid are weighted sums as well.
    np.testing.assert_array_equal(np.flatnonzero(keep[0]), sorted([*values, *ends]))
    for token, value in values.items():
        np.testing.assert_allclose(found[0, token], value, **tolerances.REORDERED)


def test_frames_that_are_too_small_for_a_token_each_share_one():
    """8 frames of 9 tokens, one for 36: three windows, the last of six frames."""
    part = video_patch_index(8, pictures.settings())
    batch = pictures.batch_of([part])
    method = M3(tokens=1, scales=(1,), grid=SIDE)
    count, room = part.count, method.image_lengths(part.count, 1)[0]
    assert (count, room) == (73, 73 // 36 + 73 * 5 // 36 // 7 + 1)
    hidden = np.random.default_rng(1).normal(size=(*batch.image_mask.shape, WIDTH))
    keep, found = found_by(method, batch, hidden.astype(np.float32))
    kept = np.flatnonzero(keep[0])
    assert kept.tolist() == [9 * i for i in range(room)]
    frames = hidden[0, :72].reshape(8, 9, WIDTH)
    for i in range(room):
        last = 8 if i == room - 1 else i + 1
        mean = frames[i:last].reshape(-1, WIDTH).mean(axis=0)
        np.testing.assert_allclose(found[0, 9 * i], mean, **tolerances.REORDERED)
