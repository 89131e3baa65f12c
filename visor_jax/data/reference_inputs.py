"""One prompt about one image, for the network here and for transformers' alike.

Pixels come from transformers' Pillow image processor, the image index from the rules of
LLaVA-OneVision (`pack_image_features` in transformers' modeling_llava_onevision.py):

    the whole image   all patches of crop 0
    the tiles         all rows of the grid of tiles, without the rows or columns that
                      only padding fills, each closed by a newline

Images so large that their features would be resized are refused.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from visor_jax.batch import Batch

# More than this share of the largest grid's side, and features are resized.
_RESIZED_BEYOND = 1.1
_TEXT_MULTIPLE = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageGeometry:
    """What the processing of images depends on.

    size: side of a crop in pixels. patches_per_side: of a crop. pinpoints: (height,
    width) of the grids of tiles to choose from. max_grid: from the aspect-ratio name
    "anyres_max_9": tiles of the largest grid whose features are not resized.
    """

    size: int
    patches_per_side: int
    pinpoints: tuple[tuple[int, int], ...]
    max_grid: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceInputs:
    """The same prompt for both: `batch` here, the other fields for transformers."""

    batch: Batch
    ids: Int[np.ndarray, "1 N"]
    pixel_values: Float[np.ndarray, "1 C 3 h w"]
    image_sizes: Int[np.ndarray, "1 2"]

    @property
    def num_text(self) -> int:
        return int(self.batch.text_mask.sum())

    def text_of(self, values: np.ndarray, image_token: int) -> np.ndarray:
        """Returns the rows of `values` (N, ...) that belong to text tokens."""
        return values[self.ids[0] != image_token]


def reference_inputs(
    image: Image.Image, tokens: Sequence[int], image_token: int, form: ImageGeometry
) -> ReferenceInputs:
    """Returns one prompt about one image.

    Args:
      tokens: of the prompt, with `image_token` once, where the image stands.

    Raises:
      ValueError: if the prompt does not hold the image exactly once or does not end
        with text, or if the image is too large to be checked here.
    """
    tokens = np.asarray(tokens, np.int32)
    (places,) = np.nonzero(tokens == image_token)
    if len(places) != 1 or places[0] == len(tokens) - 1:
        raise ValueError(
            f"The prompt holds the image {len(places)} times: it must hold it once, "
            "with text after it."
        )
    pixel_values, (height, width) = _pixels(image, form)
    index = image_token_index(height, width, form)
    ids = np.concatenate(
        [
            tokens[: places[0]],
            np.full(len(index), image_token, np.int32),
            tokens[places[0] + 1 :],
        ]
    )
    batch = _batch(tokens, int(places[0]), index, pixel_values)
    sizes = np.array([[height, width]])
    return ReferenceInputs(
        batch=batch, ids=ids[None], pixel_values=pixel_values, image_sizes=sizes
    )


def _pixels(
    image: Image.Image, form: ImageGeometry
) -> tuple[Float[np.ndarray, "1 C 3 h w"], tuple[int, int]]:
    from transformers import LlavaOnevisionImageProcessorPil

    processor = LlavaOnevisionImageProcessorPil(
        size={"height": form.size, "width": form.size},
        # Not the class's own, which are CLIP's.
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        image_grid_pinpoints=[list(p) for p in form.pinpoints],
    )
    processed = processor(image.convert("RGB"), return_tensors="np")
    return processed["pixel_values"], (image.height, image.width)


def image_token_index(
    height: int, width: int, form: ImageGeometry
) -> Int[np.ndarray, "V"]:
    """Returns which patch of the crops fills each image slot; C * P is the newline.

    Raises:
      ValueError: if the features of the image would be resized.
    """
    from transformers.image_processing_utils import select_best_resolution

    grid = select_best_resolution((height, width), [list(p) for p in form.pinpoints])
    rows, columns = (side // form.size for side in grid)
    side = form.patches_per_side
    patches = side * side
    tile_row, row = np.divmod(np.arange(rows * side), side)
    tile_column, column = np.divmod(np.arange(columns * side), side)
    tile = 1 + tile_row[:, None] * columns + tile_column
    places = tile * patches + row[:, None] * side + column
    places = _without_padding(places, height, width)
    share = math.sqrt(places.size / (form.max_grid * patches))
    if share > _RESIZED_BEYOND:
        raise ValueError(
            f"An image of {width} x {height} is too large for this check: choose one "
            f"of at most {form.max_grid} tiles of {form.size} x {form.size}."
        )
    newline = np.full((len(places), 1), (1 + rows * columns) * patches)
    lines = np.concatenate([places, newline], axis=1).reshape(-1)
    return np.concatenate([np.arange(patches), lines]).astype(np.int32)


def _without_padding(
    places: Int[np.ndarray, "h w"], height: int, width: int
) -> Int[np.ndarray, "h2 w2"]:
    rows, columns = places.shape
    if width / height > columns / rows:
        kept = int(round(height * (columns / width), 7))
        cut = (rows - kept) // 2
        return places[cut : rows - cut]
    kept = int(round(width * (rows / height), 7))
    cut = (columns - kept) // 2
    return places[:, cut : columns - cut]


def _batch(
    tokens: Int[np.ndarray, "T"],
    place: int,
    index: Int[np.ndarray, "V"],
    pixel_values: Float[np.ndarray, "1 C 3 h w"],
) -> Batch:
    text = np.delete(tokens, place)
    positions = np.arange(len(text)) + len(index) * (np.arange(len(text)) >= place)
    # Padded, so that few programs serve all prompts.
    padding = -len(text) % _TEXT_MULTIPLE

    def row(values: np.ndarray, dtype: type = np.int32) -> np.ndarray:
        return np.pad(np.asarray(values, dtype), (0, padding))[None]

    return Batch(
        pixels=np.ascontiguousarray(pixel_values.transpose(0, 1, 3, 4, 2), np.float32),
        image_token_index=index[None],
        image_positions=(place + np.arange(len(index), dtype=np.int32))[None],
        image_mask=np.ones((1, len(index)), bool),
        tokens=row(text),
        text_positions=row(positions),
        text_segments=row(np.zeros(len(text))),
        text_mask=row(np.ones(len(text)), bool),
        targets=row(np.zeros(len(text))),
        loss_mask=row(np.zeros(len(text)), bool),
    )
