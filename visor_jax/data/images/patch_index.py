"""Which patches make which image token: the index that the device gathers by.

The patches of all crops of a sample are numbered crop by crop, row by row. A wide image
with 2 x 2 patches per crop in a grid of 1 x 2 tiles (crop 0 is the whole image, N the
newline that ends every row of the grid):

    crop 0   0 1     crops 1, 2   4 5 | 8  9      tokens   0 1 2 3
             2 3                  6 7 | 10 11              4 5 8 9 N  6 7 10 11 N

Rows and columns of patches that show padding only are left out, in pairs.

Where there are too many patches, and in videos, they are resized bilinearly: a token is
then a weighted sum of the four patches around a point, `index` is (V, 4), and so are
the weights. The newline is NEWLINE here and gets its number in the batch, where the
number of crops is known.

Crops can be left out (`of_crops`). A token stays where every patch that counts in it is
of a crop that stays, the newline of a row where a token of the tiles in that row does.
Of the tokens above, without the left tile (crop 1):

    kept     0 1 2 3   6 7 8   10 11 12      places among all tokens
    index    0 1 2 3   4 5 N    6  7  N      the patches counted anew

The source is `pack_image_features` and `apply_pooling` of transformers; the arithmetic
follows theirs, float for float, because a token count depends on it.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int32

from visor_jax.data.images.anyres import choose_grid
from visor_jax.data.images.image_settings import ImageSettings

NEWLINE = -1
CORNERS = 4
# Fewer patches too many are left alone.
_TOLERATED = 1.1


@dataclasses.dataclass(frozen=True, eq=False)
class PatchIndex:
    """The image tokens of a sample, or of one image or video of it.

    index: (V,) the patch of each token; or (V, 4) the patches that it is a sum of.
    weights: (V, 4) beside an index of that shape, None beside the other.
    crops: how many crops the patches come from.
    """

    index: Int32[np.ndarray, "V *corners"]
    weights: Float32[np.ndarray, "V corners"] | None
    crops: int

    @property
    def count(self) -> int:
        return len(self.index)

    @property
    def corners(self) -> int:
        """Patches per token: 1 or 4."""
        return 1 if self.weights is None else self.index.shape[1]

    def with_corners(self) -> "PatchIndex":
        """Returns the same tokens as weighted sums; a lone patch has weight 1."""
        if self.weights is not None:
            return self
        index = np.zeros((self.count, CORNERS), np.int32)
        index[:, 0] = self.index
        weights = np.zeros(index.shape, np.float32)
        weights[:, 0] = 1
        return PatchIndex(index, weights, self.crops)

    def of_crops(
        self, crops: Sequence[int], patches_per_crop: int
    ) -> tuple["PatchIndex", Int32[np.ndarray, "kept"]]:
        """Returns the tokens of these crops alone, and which of all tokens they are.

        Patches are numbered as if there were no other crops. A newline that stands for
        no row of tiles (that of a video, or of one of several images) stays where the
        token before it does. Tokens that lone patches make are lone ones again.

        Args:
          crops: ascending, of the crops that there are.

        Raises:
          ValueError: for crops that do not exist, or do not ascend.
        """
        crops = tuple(map(int, crops))
        if list(crops) != sorted({*crops} & {*range(self.crops)}):
            raise ValueError(
                f"Crops {list(crops)} are no ascending choice of the {self.crops} that "
                "there are (0 is the first)."
            )
        kept = np.flatnonzero(self._stays(crops, patches_per_crop)).astype(np.int32)
        # Patches that count for nothing may be of crops that are gone.
        number = np.zeros(self.crops + 1, np.int32)
        number[list(crops)] = np.arange(len(crops))
        crop, patch = np.divmod(self.index[kept], patches_per_crop)
        index = number[crop] * patches_per_crop + patch
        index = np.where(crop == NEWLINE, NEWLINE, index).astype(np.int32)
        weights = None if self.weights is None else self.weights[kept]
        return PatchIndex(index, weights, len(crops))._without_corners(), kept

    def _stays(
        self, crops: tuple[int, ...], patches_per_crop: int
    ) -> Bool[np.ndarray, "V"]:
        """Returns which tokens stay with these crops."""
        shape = self.count, self.corners
        crop = self.index.reshape(shape) // patches_per_crop
        counts = np.ones(shape, bool)
        if self.weights is not None:
            counts = self.weights != 0
        stays = (np.isin(crop, crops) | ~counts).all(axis=1)
        is_newline = ((crop == NEWLINE) & counts).any(axis=1)
        # What a newline ends: tiles, before which the base view may stand; or itself.
        is_base = ((crop == 0) & counts).any(axis=1)
        row = np.cumsum(is_newline) - is_newline
        tiles = np.bincount(row, ~is_newline & ~is_base)
        counted = stays & (~is_base | (tiles[row] == 0))
        return stays | (is_newline & (np.bincount(row, counted)[row] > 0))

    def _without_corners(self) -> "PatchIndex":
        """Returns the same tokens by their only patch, where each has but one."""
        if self.weights is None or (self.weights != [1, 0, 0, 0]).any():
            return self
        return PatchIndex(self.index[:, 0], None, self.crops)

    @classmethod
    def concat(
        cls, parts: Sequence["PatchIndex"], patches_per_crop: int
    ) -> "PatchIndex":
        """Returns the tokens of all parts, whose crops follow each other."""
        if any(part.weights is not None for part in parts):
            parts = [part.with_corners() for part in parts]
        first, indices = 0, [np.zeros((0,), np.int32)] if not parts else []
        for part in parts:
            shifted = part.index + np.int32(first * patches_per_crop)
            indices.append(np.where(part.index == NEWLINE, NEWLINE, shifted))
            first += part.crops
        weights = [part.weights for part in parts if part.weights is not None]
        return cls(
            np.concatenate(indices).astype(np.int32),
            np.concatenate(weights) if weights else None,
            first,
        )


def anyres_patch_index(height: int, width: int, settings: ImageSettings) -> PatchIndex:
    """Returns the tokens of the only image of a prompt, for the crops of `anyres`."""
    rows, columns = choose_grid(height, width, settings)
    side, per_crop = settings.patches_per_side, settings.patches_per_crop
    patches = np.arange(per_crop, (1 + rows * columns) * per_crop, dtype=np.int32)
    patches = patches.reshape(rows, columns, side, side).swapaxes(1, 2)
    patches = patches.reshape(rows * side, columns * side)
    top, left = _margins(height, width, *patches.shape)
    patches = patches[top : len(patches) - top, left : patches.shape[1] - left]
    shape = resized_shape(*patches.shape, settings)
    base = PatchIndex(np.arange(per_crop, dtype=np.int32), None, 1)
    grid = _with_newlines(patches, shape)
    if grid.weights is not None:
        base = base.with_corners()
        weights = np.concatenate([base.weights, grid.weights])
    else:
        weights = None
    index = np.concatenate([base.index, grid.index])
    return PatchIndex(index, weights, 1 + rows * columns)


def square_patch_index(settings: ImageSettings) -> PatchIndex:
    """Returns the tokens of one of several images: its patches, then a newline."""
    index = np.arange(settings.patches_per_crop + 1, dtype=np.int32)
    index[-1] = NEWLINE
    return PatchIndex(index, None, 1)


def video_patch_index(frames: int, settings: ImageSettings) -> PatchIndex:
    """Returns the tokens of a video: every frame at half size, then one newline."""
    side, half = settings.patches_per_side, math.ceil(settings.patches_per_side / 2)
    patches = np.arange(frames * side * side, dtype=np.int32)
    parts = [
        _resized(frame, (half, half)) for frame in patches.reshape(frames, side, side)
    ]
    index = np.concatenate([part.reshape(-1, CORNERS) for part, _ in parts])
    weights = np.concatenate([part.reshape(-1, CORNERS) for _, part in parts])
    newline = PatchIndex(np.full(1, NEWLINE, np.int32), None, 0).with_corners()
    return PatchIndex(
        np.concatenate([index, newline.index]),
        np.concatenate([weights, newline.weights]),
        frames,
    )


def resized_shape(rows: int, columns: int, settings: ImageSettings) -> tuple[int, int]:
    """Returns what a grid of patches without its padding is resized to."""
    most = settings.max_tiles * settings.patches_per_side**2
    ratio = math.sqrt(rows * columns / most)
    if ratio <= _TOLERATED:
        return rows, columns
    return int(rows // ratio), int(columns // ratio)


def _margins(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """Returns how many rows above and below, columns left and right are padding."""
    if width / height > columns / rows:
        kept = int(round(height * (columns / width), 7))
        return (rows - kept) // 2, 0
    kept = int(round(width * (rows / height), 7))
    return 0, (columns - kept) // 2


def _with_newlines(
    patches: Int32[np.ndarray, "rows columns"], shape: tuple[int, int]
) -> PatchIndex:
    """Returns the tokens of the tiles: resized to `shape`, a newline ends each row."""
    ends = np.full((shape[0], 1), NEWLINE, np.int32)
    if shape == patches.shape:
        return PatchIndex(np.concatenate([patches, ends], axis=1).reshape(-1), None, 0)
    index, weights = _resized(patches, shape)
    end = PatchIndex(ends[:, 0], None, 0).with_corners()
    index = np.concatenate([index, end.index[:, None]], axis=1)
    weights = np.concatenate([weights, end.weights[:, None]], axis=1)
    return PatchIndex(index.reshape(-1, CORNERS), weights.reshape(-1, CORNERS), 0)


def _resized(
    patches: Int32[np.ndarray, "rows columns"], shape: tuple[int, int]
) -> tuple[
    Int32[np.ndarray, "new_rows new_columns 4"],
    Float32[np.ndarray, "new_rows new_columns 4"],
]:
    """Returns the four patches around each new place, and what each of them counts."""
    above, below, down = _neighbours(patches.shape[0], shape[0])
    left, right, across = _neighbours(patches.shape[1], shape[1])
    index, weights = [], []
    one = np.float32(1)
    for row, row_weight in ((above, one - down), (below, down)):
        for column, column_weight in ((left, one - across), (right, across)):
            index.append(patches[np.ix_(row, column)])
            weights.append(row_weight[:, None] * column_weight)
    return np.stack(index, axis=-1), np.stack(weights, axis=-1)


def _neighbours(
    size: int, new_size: int
) -> tuple[
    Int32[np.ndarray, "n"],
    Int32[np.ndarray, "n"],
    Float32[np.ndarray, "n"],
]:
    """Returns the places before and after each new one, and the share of the latter.

    Half-pixel centres, no antialiasing, float32: as `interpolate` of PyTorch.
    """
    scale = np.float32(size) / np.float32(new_size)
    centres = scale * (np.arange(new_size, dtype=np.float32) + np.float32(0.5))
    source = np.maximum(centres - np.float32(0.5), np.float32(0))
    before = np.minimum(source.astype(np.int32), size - 1)
    after = np.minimum(before + 1, size - 1)
    share = np.clip(source - before.astype(np.float32), 0, 1).astype(np.float32)
    return before, after, share
