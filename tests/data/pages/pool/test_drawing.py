import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from visor_jax.data.pages.pool.drawing import draw_page
from visor_jax.data.pages.pool.facts import PageFacts
from visor_jax.data.pages.pool.handwriting import SPLITS, load_handwriting, upsample


def test_splits_share_no_scan_and_cover_all():
    ids = [np.concatenate(load_handwriting(split).scan_ids) for split in SPLITS]
    together = np.concatenate(ids)
    assert len(np.unique(together)) == len(together) == 1797


@pytest.mark.parametrize(
    ("split", "share"), [("train", 0.7), ("policy", 0.15), ("test", 0.15)]
)
def test_splits_are_stratified_by_digit(split, share):
    sizes = np.array([len(glyphs) for glyphs in load_handwriting(split).glyphs])
    whole = sum(np.array([len(g) for g in load_handwriting(s).glyphs]) for s in SPLITS)
    assert np.all(np.abs(sizes - share * whole) <= 1)


def test_unknown_split_names_the_known_ones():
    with pytest.raises(ValueError, match=r"train.*policy.*test"):
        load_handwriting("validation")


def test_upsampling_is_bilinear_and_keeps_the_mean():
    flat = upsample(np.full((1, 8, 8), 0.25, np.float32))
    np.testing.assert_allclose(flat, 0.25)
    ramp = np.tile(np.arange(8, dtype=np.float32), (1, 8, 1))
    expected = [0, 0.25, 0.75, 1.25, 1.75]
    np.testing.assert_allclose(upsample(ramp)[0, 3, :5], expected, atol=1e-6)


def test_page_depends_on_the_generator_alone():
    handwriting = load_handwriting("test")
    first = draw_page(handwriting, np.random.default_rng(3))
    second = draw_page(handwriting, np.random.default_rng(3))
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]
    assert first[0].shape == (96, 96, 3)
    assert first[0].dtype == np.uint8


def test_page_shows_its_facts(pool):
    for page, record in zip(pool.pages.astype(float), pool.facts, strict=True):
        facts = PageFacts.from_record(record)
        red = (page[..., 0] > 130) & (page[..., 1:].max(-1) < 60)
        y, x = np.argwhere(red).mean(axis=0)
        assert (int(y // 24), int(x // 24)) == facts.mark
        orange = (page[..., 0] > 150) & (page[..., 2] < 60) & (page[..., 1] > 75)
        assert (orange.sum() > 12) == (facts.squares > 0)
        halves = {
            "left": page[:, :48],
            "right": page[:, 48:],
            "top": page[:48],
            "bottom": page[48:],
        }
        # The median is paper, whatever is drawn on it.
        brightness = {name: np.median(half) for name, half in halves.items()}
        assert min(brightness, key=brightness.get) == facts.dark_half


def test_bars_have_their_heights(pool):
    for page, record in zip(pool.pages.astype(float), pool.facts, strict=True):
        for i, level in enumerate(record["bars"]):
            column = page[72:87, 48 + 12 * i + 5 : 48 + 12 * i + 7].max(-1).mean(-1)
            assert (column < 90).sum() == 3 * level


def test_facts_survive_the_record(pool):
    for record in pool.facts[:5]:
        assert np.array_equal(PageFacts.from_record(record).to_record(), record)


def test_mark_leaves_room_on_its_right(many_facts):
    assert many_facts["mark"].max(axis=0).tolist() == [2, 2]


def test_drawing_processes_do_not_import_jax():
    code = "import sys, visor_jax.data.pages.pool.pool as _; "
    code += "print({'jax','flax'} & {*sys.modules})"
    root = Path(__file__).parents[4]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "set()"
