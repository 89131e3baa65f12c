"""Which patch makes which token: by the golden features, an oracle, and transformers.

The golden file holds what `pack_image_features` and `apply_pooling` of transformers
make of random patches (see `tests.data.pages.packing_cases`).
"""

import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.llava_onevision.processing_llava_onevision import (
    LlavaOnevisionProcessor,
)

from tests.data.pages import packing_cases
from tests.data.tiny_llava import hf_image_processor, image_settings
from tests.tolerances import PARITY
from visor_jax.data.images.anyres import anyres_crops
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.images.patch_index import (
    NEWLINE,
    PatchIndex,
    anyres_patch_index,
    square_patch_index,
    video_patch_index,
)

REAL = ImageSettings()


def gathered(found, patches):
    """Returns the tokens that the network makes of the patches of one sample."""
    flat = patches.reshape(-1, patches.shape[-1])
    # Index -1, the newline, reads the last row.
    flat = np.concatenate([flat, packing_cases.NEWLINE[None]])
    if found.weights is None:
        return flat[found.index]
    return np.einsum("vkd,vk->vd", flat[found.index], found.weights)


@pytest.fixture(scope="module")
def golden():
    return np.load(packing_cases.GOLDEN)


@pytest.mark.parametrize("name", packing_cases.image_cases())
def test_one_image_is_packed_as_in_transformers(golden, name):
    settings, size, patches = packing_cases.image_cases()[name]
    found = anyres_patch_index(*size, settings)
    assert found.crops == len(patches)
    np.testing.assert_allclose(gathered(found, patches), golden[name], **PARITY)
    if found.weights is None:
        np.testing.assert_array_equal(gathered(found, patches), golden[name])


def test_the_cases_hold_resized_and_plain_images():
    corners = {
        anyres_patch_index(*size, settings).corners
        for settings, size, _ in packing_cases.image_cases().values()
    }
    assert corners == {1, 4}


@pytest.mark.parametrize("name", packing_cases.video_cases())
def test_videos_are_pooled_as_in_transformers(golden, name):
    settings, patches = packing_cases.video_cases()[name]
    found = video_patch_index(len(patches), settings)
    np.testing.assert_allclose(gathered(found, patches), golden[name], **PARITY)


def test_drawn_example():
    """The picture at the top of `patch_index`."""
    wide = ImageSettings(tile_size=28, patch_size=14, pinpoints=((28, 56),))
    found = anyres_patch_index(20, 40, wide)
    rows = [4, 5, 8, 9, NEWLINE, 6, 7, 10, 11, NEWLINE]
    assert found.index.tolist() == [0, 1, 2, 3, *rows]


def test_padding_is_left_out():
    settings = ImageSettings(tile_size=42, patch_size=14, pinpoints=((42, 42),))
    found = anyres_patch_index(10, 40, settings)
    rows = [12, 13, 14, NEWLINE]
    assert found.index.tolist() == [*range(9), *rows]
    # A sliver fills no patch of an even grid: only the whole image is left.
    even = ImageSettings(tile_size=28, patch_size=14, pinpoints=((28, 28),))
    assert anyres_patch_index(1, 90, even).index.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [
        *((384, 384, 1485), (224, 224, 1485), (640, 480, 2929), (1024, 899, 6551)),
        *((800, 600, 4725), (1500, 500, 4653), (1700, 2200, 7353), (4000, 1000, 7249)),
    ],
)
def test_known_token_counts(width, height, tokens):
    """Counted by running transformers on the published configuration."""
    assert anyres_patch_index(height, width, REAL).count == tokens


@pytest.mark.parametrize(("size", "tiles"), [((384, 224), 1), ((2200, 1700), 30)])
def test_known_tile_counts(size, tiles):
    assert anyres_patch_index(*size, REAL).crops == 1 + tiles


def test_other_token_counts():
    assert square_patch_index(REAL).count == 730
    assert video_patch_index(32, REAL).count == 32 * 196 + 1


def hf_count(height, width, settings):
    """Returns what the processor of transformers counts, without building one."""
    self = types.SimpleNamespace(
        image_processor=hf_image_processor(settings),
        num_image_tokens=settings.patches_per_crop,
        vision_aspect_ratio=f"anyres_max_{settings.max_tiles}",
    )
    self._get_unpadded_features = types.MethodType(
        LlavaOnevisionProcessor._get_unpadded_features, self
    )
    side = settings.tile_size
    return LlavaOnevisionProcessor._get_number_of_features(
        self, height, width, side, side
    )


def oracle_count(height, width, settings):
    """Returns the count by scanning a drawn mask: rows with a patch, and patches.

    The image is drawn into its grid of patches as a fraction; only where nothing is
    resized.
    """
    points = np.array(settings.pinpoints)
    scale = np.min(points / [height, width], axis=1)
    shown = (width * scale).astype(int) * (height * scale).astype(int)
    shown = np.minimum(shown, width * height)
    waste = points.prod(axis=1) - shown
    best = np.lexsort((np.arange(len(points)), waste, -shown))[0]
    rows, columns = points[best] // settings.tile_size * settings.patches_per_side
    kept_rows = min(rows, int(round(height * columns / width, 7)))
    kept_columns = min(columns, int(round(width * rows / height, 7)))
    # Padding is cut in pairs: as many patches before the image as after it.
    kept_rows += (rows - kept_rows) % 2
    kept_columns += (columns - kept_columns) % 2
    return settings.patches_per_crop + kept_rows * (kept_columns + 1), (
        kept_rows * kept_columns
    )


def test_counts_over_a_sweep_of_sizes():
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(np.log(8), np.log(5000), (2500, 2))).astype(int)
    resized = 0
    for height, width in sizes.tolist():
        found = anyres_patch_index(height, width, REAL).count
        assert found == hf_count(height, width, REAL), (height, width)
        expected, patches = oracle_count(height, width, REAL)
        if patches > 1.21 * 9 * 729:
            resized += 1
            assert found < expected
        else:
            assert found == expected, (height, width)
    assert resized > 100


@given(st.integers(1, 700), st.integers(1, 700))
def test_the_index_has_as_many_tokens_as_were_counted(height, width):
    settings = image_settings(tile=16, patch=5, side=4)
    found = anyres_patch_index(height, width, settings)
    assert found.count == hf_count(height, width, settings)
    crops = anyres_crops(np.zeros((height, width, 3), np.uint8), settings)
    assert found.crops == len(crops)
    assert found.index.max() < found.crops * settings.patches_per_crop
    if found.weights is not None:
        assert (found.weights >= 0).all()
        np.testing.assert_allclose(found.weights.sum(axis=1), 1, **PARITY)
        assert (found.index.min(axis=1) >= 0)[found.index[:, 0] != NEWLINE].all()


def test_parts_follow_each_other():
    settings = image_settings(tile=28)
    joined = PatchIndex.concat(
        [square_patch_index(settings)] * 2, settings.patches_per_crop
    )
    assert joined.index.tolist() == [0, 1, 2, 3, NEWLINE, 4, 5, 6, 7, NEWLINE]
    assert (joined.crops, joined.corners, joined.count) == (2, 1, 10)
    video = video_patch_index(1, settings)
    mixed = PatchIndex.concat(
        [square_patch_index(settings), video], settings.patches_per_crop
    )
    assert (mixed.crops, mixed.corners, mixed.count) == (2, 4, 7)
    patches = packing_cases.patches_of(2, settings)
    newline = packing_cases.NEWLINE
    expected = [*patches[0], newline, patches[1].mean(axis=0), newline]
    np.testing.assert_allclose(gathered(mixed, patches), expected, **PARITY)
    assert PatchIndex.concat([], 4).count == 0
