"""Which crops a training step looks at: a network is to be right at any of them.

    step   rows of the batch                      looked at, of at most 3 crops
    17     5 crops, 5 crops, 3 crops, text alone   0 2 4 | 0 1 3 | 0 1 2 | -

How many is drawn for the step, so that all of its rows fit one shape; which ones for
each row, and the base view is always among them. Both depend on the run's seed and the
step alone. There are few numbers of crops, and so few programs.
"""

import dataclasses

import numpy as np

from visor_jax.data.bucket_ladder import crop_rungs, look_tokens
from visor_jax.data.buckets import MULTIPLE, Bucket
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.prompts.sample import Sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropDraw:
    """The crops of every step of a run.

    images: of the network. seed: the run's.
    """

    images: ImageSettings
    seed: int

    def bucket(self, step: int, whole: Bucket) -> Bucket:
        """Returns the shape of a step whose rows all have one image, or none.

        Args:
          whole: of the same rows with all of their crops.
        """
        counts = crop_rungs(whole.crops)
        count = int(np.random.default_rng([self.seed, step]).choice(counts))
        if count == whole.crops:
            return whole
        most = look_tokens(self.images, count)
        rounded = -(-most // MULTIPLE) * MULTIPLE
        tokens = min(rounded, whole.image_tokens)
        return dataclasses.replace(whole, crops=count, image_tokens=tokens)

    def sample(self, step: int, row: int, sample: Sample, most: int) -> Sample:
        """Returns a row of a step with at most so many of its crops."""
        if sample.num_crops <= most:
            return sample
        rng = np.random.default_rng([self.seed, step, row])
        tiles = rng.choice(sample.num_crops - 1, most - 1, replace=False) + 1
        crops = (0, *sorted(tiles.tolist()))
        return sample.of_crops(crops, self.images.patches_per_crop)
