"""Which crops a network is shown, and by which rule; what was looked at, in words.

AS_ALL   tokens where they stand among all crops, as a network trained on drawn
         crops knows them
ALONE    the base view as an image of one crop, as every checkpoint knows it
"""

import dataclasses
import enum
from collections.abc import Iterable
from typing import Any

from visor_jax.data.prompts.sample import Sample
from visor_jax.look import Crops


class CropRule(enum.Enum):
    """How an image is laid out of which some crops are left out."""

    AS_ALL = "as_all"
    ALONE = "alone"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Looking:
    """The crops that a network is shown of every image that has several.

    patches_per_crop: of the network.
    """

    crops: Crops
    rule: CropRule
    patches_per_crop: int

    def __post_init__(self) -> None:
        if self.rule is CropRule.ALONE and self.crops.count != 0:
            raise ValueError(
                f"The rule {self.rule.value!r} is for the base view alone, not for "
                f"{self.crops.name!r}: take {CropRule.AS_ALL.value!r}, or 'base'."
            )

    def sample(self, whole: Sample) -> Sample:
        """Returns what is looked at of a sample.

        Videos and several images have no tiles: they are looked at as they are.
        """
        if not whole.has_tiles:
            return whole
        if self.rule is CropRule.ALONE:
            return whole.base_alone(self.patches_per_crop)
        crops = self.crops.of_image(whole.num_crops)
        return whole.of_crops(crops, self.patches_per_crop)

    def warm_up(self, text_tokens: Iterable[int]) -> None:
        """Compiles what choosing crops needs: nothing, where they are named.

        text_tokens: of the buckets for prompts.
        """

    def report(self, sample: Sample) -> dict[str, Any]:
        """Returns what was looked at of a sample of `sample`, as JSON values.

        asked: the crops' name. crops: those that were looked at. of: how many the image
        has. rule: None where all of them were. note: where that is not what was asked.
        """
        numbers, of = sample.looked_at, sample.image_crops
        if numbers is None:
            numbers, of = tuple(range(sample.num_crops)), sample.num_crops
        note = ""
        if not sample.has_tiles and sample.looked_at is None:
            note = "no image that is cut into tiles: looked at as it is"
        elif self.crops.exceeds(of):
            note = f"the image has no more than {of} crops"
        return {
            "asked": self.crops.name,
            "crops": list(numbers),
            "of": of,
            "rule": None if sample.looked_at is None else self.rule.value,
            **({"note": note} if note else {}),
        }
