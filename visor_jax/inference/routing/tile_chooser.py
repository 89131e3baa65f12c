"""The base view first, then the tiles that it says are asked about: crops='best+2'.

    first look    the base view and the prompt, at the cheapest budget: where the
                  prompt's last token looks in the CROSS layers
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
from jaxtyping import Array, Float

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.data.buckets import Buckets
from visor_jax.data.prompts.looking import Looking
from visor_jax.data.prompts.row_packing import empty_row
from visor_jax.data.prompts.sample import Sample
from visor_jax.flops.looks import LookLengths, look_account
from visor_jax.inference.generation.cross_looks import read_base_view
from visor_jax.inference.routing.tiles_shown import features_of_tiles, tile_of_patches
from visor_jax.models.decoder.token_reducer import KEEP_ALL
from visor_jax.models.vlm import VLM
from visor_jax.policy.tile_scorer import TileFeatures, TrainedScorer

Params = Any
Read = tuple[
    Float[Array, "1 1 D"], Float[Array, "1 V D"], dict[int, Float[Array, "1 1 V"]]
]


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

        Raises:
          ValueError: as `scores`.
        """
        ranking = np.argsort(-self.scores(whole), kind="stable")
        return tuple(sorted((ranking[:count] + 1).tolist()))

    def scores(self, whole: Sample) -> Float[np.ndarray, "tiles"]:
        """Returns what a look at the base view says of each tile; more is better.

        Those that no patch of it shows come last.

        Raises:
          ValueError: for a sample without tiles, or as `tile_of_patches`.
        """
        features = self.features(whole)
        if self.scorer is None:
            return features.looks[0].sum(axis=-1)
        found = self.scorer.scores(features)[0]
        return np.where(features.tiles[0].any(axis=-1), found, -np.inf)

    def features(self, whole: Sample) -> TileFeatures:
        """Returns what the look at the base view reads, one row.

        Raises ValueError as `scores`.
        """
        patches = self.buckets.patches_per_crop
        base = whole.of_crops((0,), patches)
        shown = tile_of_patches(whole.patch_index, patches)
        batch = self.buckets.batch([base], self.buckets.choose(base))
        words, image, looks = self._read(batch, base.num_text_tokens - 1)
        return features_of_tiles(
            np.asarray(words),
            np.asarray(image),
            {layer: np.asarray(each) for layer, each in looks.items()},
            shown,
            whole.num_crops - 1,
        )

    def flops(self, text_tokens: int, tiles: int) -> int:
        """Returns the FLOPs of choosing: a whole look at the base view, and a scorer's.

        tiles: of the image.
        """
        config = self.model.config
        seen = LookLengths(crops=1, image_tokens=config.vision.num_patches)
        look = look_account(config, self.budget, seen, text_tokens=text_tokens)
        if self.scorer is None:
            return look.end_to_end
        own = self.scorer.flops(width=config.decoder.width, tiles=tiles)
        return look.end_to_end + own

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
            words, image, looks = self._read(blank, 0)
        if self.scorer is None:
            return
        read = [np.asarray(each) for each in (words, image)]
        looks = {layer: np.asarray(each) for layer, each in looks.items()}
        shown = np.ones(patches, np.int32)
        for tiles in range(1, max(bucket.crops for bucket in buckets.all)):
            self.scorer.scores(features_of_tiles(*read, looks, shown, tiles))

    def _read(self, batch: Batch, last: int) -> Read:
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
        """Returns what is looked at of a sample; asks the network where it matters.

        Raises ValueError for an image whose tiles cannot be chosen.
        """
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
