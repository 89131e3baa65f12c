"""The base view first, then the tiles that it says are asked about: crops='best+2'.

    first look    the base view and the question, at the cheapest budget: where the
                  question's last token looks in the CROSS layers
    tiles         attention to the patches of the base view, summed over those that show
                  the tile; or what a trained scorer makes of it (`policy.tile_scorer`)
    second look   the base view and the best tiles, in the budget of the answer

A network that was trained on drawn crops needs no training for it. The first look is
one prompt by itself, whatever else is answered beside it.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int32

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.data.buckets import Buckets
from visor_jax.data.images.patch_index import NEWLINE, PatchIndex
from visor_jax.data.prompts.looking import Looking
from visor_jax.data.prompts.row_packing import empty_row
from visor_jax.data.prompts.sample import Sample
from visor_jax.flops.looks import LookLengths, look_account
from visor_jax.inference.generation.cross_looks import read_base_view
from visor_jax.models.decoder.token_reducer import KEEP_ALL
from visor_jax.models.vlm import VLM
from visor_jax.policy.tile_scorer import TileFeatures, TrainedScorer

Params = Any


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TileChooser:
    """A network that looks at base views, to say which tiles are worth their cost.

    budget: of that look. buckets: with room for a base view alone. scorer: None where
    the attention of the CROSS layers says which.

    Raises ValueError for a network without CROSS layers, or one that drops tokens.
    """

    model: VLM
    params: Params
    budget: Budget
    buckets: Buckets
    scorer: TrainedScorer | None = None

    def __post_init__(self) -> None:
        if not self.model.config.plan.cross_layers:
            raise ValueError(
                "The best tiles are those that CROSS layers look at, and this network "
                "has none: name tiles ('base+2:1,4'), or take a plan with some."
            )
        if self.model.reducer != KEEP_ALL:
            raise ValueError(
                f"{self.model.reducer} drops image tokens, so that layers see other "
                "ones: choose tiles without it, or name them ('base+2:1,4')."
            )

    @property
    def chosen_by(self) -> str:
        """What says which tiles: "attention" or "scorer"."""
        return "attention" if self.scorer is None else "scorer"

    def best(self, whole: Sample, count: int) -> tuple[int, ...]:
        """Returns the numbers of so many tiles, ascending; of equal ones the first.

        whole: with all of its crops, tiles among them.
        """
        ranking = np.argsort(-self.scores(whole), kind="stable")
        return tuple(sorted((ranking[:count] + 1).tolist()))

    def scores(self, whole: Sample) -> Float[np.ndarray, "tiles"]:
        """Returns what a look at the base view says of each tile; more is better.

        Raises ValueError for a sample without tiles.
        """
        features = self.features(whole)
        if self.scorer is not None:
            return self.scorer.scores(features)[0]
        return np.asarray(features.looks)[0].sum(axis=-1)

    def flops(self, text_tokens: int, tiles: int) -> int:
        """Returns the FLOPs of choosing: a look at the base view, and the scorer's own.

        tiles: of the image.
        """
        config = self.model.config
        seen = LookLengths(crops=1, image_tokens=config.vision.num_patches)
        look = look_account(config, self.budget, seen, text_tokens=text_tokens)
        if self.scorer is None:
            return look.end_to_end
        layers, width = len(config.plan.cross_layers), config.decoder.width
        own = self.scorer.flops(width=width, tiles=tiles, cross_layers=layers)
        return look.end_to_end + own

    def features(self, whole: Sample) -> TileFeatures:
        """Returns what the look at the base view reads, one row.

        Raises ValueError for a sample without tiles.
        """
        patches = self.buckets.patches_per_crop
        base = whole.of_crops((0,), patches)
        batch = self.buckets.batch([base], self.buckets.choose(base))
        words, image, looks = self._read(batch, base.num_text_tokens - 1)
        shown = tile_of_patches(whole.patch_index, patches)
        # Which patches show each tile; a sliver of one may be shown by none.
        parts = (shown[:, None] == np.arange(1, whole.num_crops)).astype(np.float32)
        hidden = parts.T @ np.asarray(image)[0, :patches]
        layers = [np.asarray(each)[0, 0, :patches] for each in looks.values()]
        return TileFeatures(
            question=np.asarray(words)[:, 0],
            tiles=(hidden / np.maximum(parts.sum(axis=0), 1)[:, None])[None],
            looks=(parts.T @ np.stack(layers, axis=-1))[None],
        )

    def warm_up(self, text_tokens: Iterable[int]) -> None:
        """Compiles the look at base views, beside prompts of these lengths."""
        patches, buckets = self.buckets.patches_per_crop, self.buckets
        for length in text_tokens:
            bucket = next(
                bucket
                for bucket in buckets.all
                if bucket.text_tokens == length
                and bucket.image_tokens >= patches
                and not bucket.gaps
            )
            blank = buckets.batch([empty_row(buckets.crop_size)], bucket)
            jax.block_until_ready(self._read(blank, 0))

    def _read(self, batch: Batch, last: int) -> tuple[Any, Any, dict[int, Any]]:
        """Returns what `read_base_view` does of one prompt; last: its last token."""
        return read_base_view(
            self.params,
            jax.device_put(batch),
            np.full((1, 1), last, np.int32),
            model=self.model,
            gates=self.budget.gates(self.model.config.plan),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BestTiles(Looking):
    """Shows the base view and the tiles that a network chooses by it.

    crops: how many; `Crops.best`.
    """

    chooser: TileChooser

    @classmethod
    def of(cls, looking: Looking, chooser: TileChooser) -> "BestTiles":
        """Returns a look at as many tiles, that the chooser chooses."""
        return cls(
            crops=looking.crops,
            rule=looking.rule,
            patches_per_crop=looking.patches_per_crop,
            chooser=chooser,
        )

    def sample(self, whole: Sample) -> Sample:
        """Returns what is looked at of a sample; asks the network where it matters."""
        if not whole.has_tiles or self.crops.count >= whole.num_crops - 1:
            return super().sample(whole)
        tiles = self.chooser.best(whole, self.crops.count)
        return whole.of_crops((0, *tiles), self.patches_per_crop)

    def warm_up(self, text_tokens: Iterable[int]) -> None:
        """Compiles the look that chooses."""
        self.chooser.warm_up(text_tokens)

    def report(self, sample: Sample) -> dict[str, Any]:
        """Returns what `Looking.report` does, and what said which tiles, at what cost.

        chosen_by: `TileChooser.chosen_by`. choosing_flops: of the look before.
        """
        found = super().report(sample)
        if sample.looked_at is None:
            return found
        cost = self.chooser.flops(sample.num_text_tokens, found["of"] - 1)
        return found | {"chosen_by": self.chooser.chosen_by, "choosing_flops": cost}


def tile_of_patches(index: PatchIndex, patches: int) -> Int32[np.ndarray, "patches"]:
    """Returns the tile that each patch of an image's base view shows, from 1.

    The base view is the whole image, squashed; tokens behind it are the image row by
    row, padding left out, so that places in both are shares of the image.

    Args:
      index: of all crops of one image. patches: of a crop.

    Raises:
      ValueError: for tokens that are no base view and rows of tiles.
    """
    tokens = index.index
    if index.weights is not None:
        most = index.weights.argmax(axis=1)
        tokens = np.take_along_axis(tokens, most[:, None], axis=1)[:, 0]
    base, rest = tokens[:patches], tokens[patches:]
    rows = int((rest == NEWLINE).sum())
    if not rows or len(rest) % rows or not ((base >= 0) & (base < patches)).all():
        raise ValueError(
            f"{len(tokens)} image tokens, {rows} newlines among them, are no base view "
            f"of {patches} and rows of tiles: this image's tiles cannot be chosen."
        )
    grid = rest.reshape(rows, -1)[:, :-1] // patches
    side = round(patches**0.5)
    # Of the middle of each patch.
    middle = 2 * np.arange(side) + 1
    down, across = (middle * length // (2 * side) for length in grid.shape)
    return grid[down][:, across].reshape(-1).astype(np.int32)
