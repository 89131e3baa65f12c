"""How pictures become crops: the numbers of a checkpoint's image processor."""

import dataclasses
from collections.abc import Mapping
from typing import Any

# What a LLaVA-OneVision processor does to pixels, and here is not a choice.
_FIXED: dict[str, tuple[Any, ...]] = {
    "do_resize": (True,),
    "do_rescale": (True,),
    "do_normalize": (True,),
    "do_pad": (True,),
    "do_convert_rgb": (True,),
    "do_center_crop": (False, None),
    "resample": (3,),
    "rescale_factor": (1 / 255,),
}
_ASPECT_RATIO = "anyres_max_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """The crops of a network; the defaults are LLaVA-OneVision's.

    tile_size: side of a crop in pixels, the tower's image size.
    patch_size: the tower's.
    pinpoints: (height, width) in pixels of every grid of tiles that an image may be
      fitted into; on a tie the first wins.
    max_tiles: patches of the tiles are resized down where they are more than 1.1
      squared times what so many tiles hold.
    mean, std: of each colour, in units of the full range.
    """

    tile_size: int = 384
    patch_size: int = 14
    pinpoints: tuple[tuple[int, int], ...] = tuple(
        (384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7)
    )
    max_tiles: int = 9
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if not 1 <= self.patch_size <= self.tile_size or self.max_tiles < 1:
            raise ValueError(
                f"ImageSettings: patch_size={self.patch_size} must lie in 1.."
                f"{self.tile_size} (tile_size), and max_tiles={self.max_tiles} be at "
                "least 1."
            )
        wrong = [
            list(point)
            for point in self.pinpoints
            if min(point) < 1 or any(side % self.tile_size for side in point)
        ]
        if wrong or not self.pinpoints:
            raise ValueError(
                f"ImageSettings: pinpoints {wrong} are not whole numbers of tiles of "
                f"{self.tile_size} pixels; at least one is needed."
            )
        if min(self.std) <= 0:
            raise ValueError(f"ImageSettings: std={self.std} must be positive.")

    @property
    def patches_per_side(self) -> int:
        """Rows (and columns) of patches in a crop; what is left over is not read."""
        return self.tile_size // self.patch_size

    @property
    def patches_per_crop(self) -> int:
        return self.patches_per_side**2

    @classmethod
    def of_sizes(cls, tile_size: int, patch_size: int) -> "ImageSettings":
        """Returns LLaVA-OneVision's grids, up to 6 x 6 tiles, of other crops."""
        sides = [tile_size * n for n in range(1, 7)]
        grids = tuple((height, width) for height in sides for width in sides)
        return cls(tile_size=tile_size, patch_size=patch_size, pinpoints=grids)

    @classmethod
    def from_hf(
        cls, config: Mapping[str, Any], processor: Mapping[str, Any]
    ) -> "ImageSettings":
        """Returns the settings of a Hugging Face checkpoint.

        Args:
          config: its config.json.
          processor: its preprocessor_config.json, or a processor_config.json in which
            the image processor is nested.

        Raises:
          ValueError: for a value that is missing, that both files give differently, or
            that asks for another processing than LLaVA-OneVision's.
        """
        processor = processor.get("image_processor", processor)
        problems = [*_fixed_problems(processor), *_sizes_problems(config, processor)]
        # Without them transformers falls back on the numbers of another tower.
        missing = [k for k in ("image_mean", "image_std") if not processor.get(k)]
        problems += [f"the image processor does not state {name}" for name in missing]
        ratio = str(config.get("vision_aspect_ratio", "anyres_max_9"))
        most = ratio.removeprefix(_ASPECT_RATIO)
        if not ratio.startswith(_ASPECT_RATIO) or not most.isdigit():
            problems.append(f"vision_aspect_ratio {ratio!r} is not anyres_max_<n>")
        if problems:
            raise ValueError(f"Cannot process images as asked: {'; '.join(problems)}.")
        pinpoints = config["image_grid_pinpoints"]
        return cls(
            tile_size=config["vision_config"]["image_size"],
            patch_size=config["vision_config"]["patch_size"],
            pinpoints=tuple((height, width) for height, width in pinpoints),
            max_tiles=int(most),
            mean=tuple(processor["image_mean"]),
            std=tuple(processor["image_std"]),
        )


def _fixed_problems(processor: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}={processor[name]!r} is not supported, only {allowed[0]!r}"
        for name, allowed in _FIXED.items()
        if name in processor and processor[name] not in allowed
    ]


def _sizes_problems(
    config: Mapping[str, Any], processor: Mapping[str, Any]
) -> list[str]:
    vision = config.get("vision_config", {})
    missing = [k for k in ("image_size", "patch_size") if k not in vision]
    problems = [f"vision_config does not state {name}" for name in missing]
    pinpoints = config.get("image_grid_pinpoints")
    if not pinpoints:
        problems.append("config.json does not state image_grid_pinpoints")
    # transformers reads the processor's for pixels, the network's for features.
    elif processor.get("image_grid_pinpoints", pinpoints) != pinpoints:
        problems.append("image_grid_pinpoints of config and processor differ")
    tile = vision.get("image_size")
    whole = {"height": tile, "width": tile}
    size = processor.get("size", whole)
    if tile is not None and size != whole:
        problems.append(f"processor size {size} is not the tower's {tile}")
    return problems
