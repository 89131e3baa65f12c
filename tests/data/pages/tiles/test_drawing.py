"""What a tile shows, and what is left of it in the base view."""

import numpy as np
import pytest

from visor_jax.data.pages.forms import TileForm
from visor_jax.data.pages.pool.handwriting import load_handwriting
from visor_jax.data.pages.tiles import drawing
from visor_jax.data.pages.tiles.words import COLOURS

TINTS = {
    "red": (179, 77, 114),
    "yellow": (179, 179, 114),
    "green": (77, 179, 114),
    "blue": (77, 128, 176),
    "navy": (77, 77, 114),
    "cyan": (128, 179, 176),
    "violet": (128, 77, 176),
    "pink": (179, 128, 176),
    "olive": (128, 128, 77),
}


def page_of(grid, monkeypatch, *, screen=56.0):
    """Returns a page without noise whose digits have that much contrast."""
    monkeypatch.setattr(drawing, "_NOISE", np.float32(0))
    monkeypatch.setattr(drawing, "_SCREEN", np.float32(screen))
    rng = np.random.default_rng(3)
    return drawing.draw_page(grid, load_handwriting("train"), rng)


@pytest.mark.parametrize("grid", [2, 3])
def test_digits_are_in_the_tiles_and_not_in_the_base_view(grid, monkeypatch):
    page, record = page_of(grid, monkeypatch)
    plain, same = page_of(grid, monkeypatch, screen=0)
    assert record == same
    with_digits, without = (TileForm(grid).crops(p[None])[0] for p in (page, plain))
    seen = np.abs(with_digits - without).max(axis=(1, 2, 3))
    # In units of the full range, 2: 1.3 of 56 levels may be left, a third of the noise.
    assert (seen[1:] > 0.4).all()
    assert seen[0] < 0.01
    # Nor is the faint screen there, which every patch of a tile shows.
    rough = np.abs(np.diff(without[:, :7, 1:22], axis=2))
    assert np.median(rough[0]) < 0.02
    assert np.median(rough[1:]) == pytest.approx(28 / 127.5, abs=0.01)


def test_a_digit_of_plain_ink_would_be_in_the_base_view(monkeypatch):
    monkeypatch.setattr(drawing, "screen", lambda: np.ones((48, 48), np.float32))
    page, _ = page_of(2, monkeypatch, screen=-56)
    plain, _ = page_of(2, monkeypatch, screen=0)
    with_digits, without = (TileForm(2).crops(p[None])[0] for p in (page, plain))
    assert np.abs(with_digits - without)[0].max() > 0.3


def test_no_colour_lies_between_others():
    """What a linear layer looks for along a colour, that colour has most of."""
    away = drawing.tints() - 128.0
    along = away @ away.T
    # At least twice as much as the next, and the ink of both screens has room.
    apart = np.where(np.eye(len(along), dtype=bool), -np.inf, along).max(axis=1)
    assert (apart < 0.5 * np.diag(along)).all()
    assert np.abs(away).max() + drawing._SCREEN + drawing._GRAIN < 128


@pytest.mark.parametrize("grid", [2, 3])
def test_facts_are_what_is_painted(grid, monkeypatch):
    page, record = page_of(grid, monkeypatch)
    assert sorted(record["colours"]) == list(range(grid * grid))
    ink, white = np.zeros(4, int), []
    for tile, colour in enumerate(record["colours"]):
        y, x = (48 * place for place in divmod(tile, grid))
        region = page[y : y + 48, x : x + 48]
        # A light and a dark square of the faint screen.
        both = region[0, :2].astype(int)
        assert tuple(both.mean(axis=0)) == TINTS[COLOURS[colour]]
        assert (both[0] - both[1] == 28).all()
        dark = int((region == 25).all(axis=-1).sum())
        # none, ring, cross, bar of 16 x 8
        ink[record["shapes"][tile]] = dark
        assert (dark == 0) == (record["shapes"][tile] == 0)
        bright = (region == 250).all(axis=-1)
        if bright.any():
            white.append([tile, int(np.flatnonzero(bright.any(axis=0))[0] >= 24)])
            assert bright.sum() == 4 * 16
    assert white == [record["mark"].tolist()]
    assert ink[3] in (0, 16 * 8)


def test_a_page_depends_on_its_number_alone(pools):
    from visor_jax.data.pages.pool.pool import make_pool
    from visor_jax.data.pages.pool.recipes import TILED_PAGES

    for grid, pool in pools.items():
        small = make_pool("train", 3, seed=5, recipe=TILED_PAGES[grid])
        np.testing.assert_array_equal(small.pages, pool.pages[:3])
        np.testing.assert_array_equal(small.facts, pool.facts[:3])
        assert pool.pages.shape == (30, 48 * grid, 48 * grid, 3)
