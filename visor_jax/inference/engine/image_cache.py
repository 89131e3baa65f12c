"""Encodes every distinct image once, and keeps what that made.

Tower and projector make its tokens; the layers that run alike at every budget make keys
and values of these. Both depend on the image alone.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from visor_jax.data.buckets import Bucket
from visor_jax.inference.engine.budget_groups import program_rows
from visor_jax.inference.engine.packed_prompts import PromptRow, image_shape
from visor_jax.inference.engine.programs import Programs
from visor_jax.inference.generation.prefill_parts import EncodedImage
from visor_jax.runtime.device_cache import Held, num_bytes_of

# Of a batch, in the order of the program's arguments.
_FIELDS = (
    *("pixels", "image_token_index", "image_token_weights", "image_mask"),
    "image_places",
)


class ImageCache:
    """Images of rows: from the cache, or by the programs that make them.

    images_run: how many images went through the tower so far, fillers not counted.
    crops_run: how many crops of them.
    """

    def __init__(self, programs: Programs, kept: Held[Hashable, EncodedImage]) -> None:
        """Takes where programs come from and where images are kept."""
        self._programs, self._kept = programs, kept
        self._blank: dict[Hashable, EncodedImage] = {}
        self.images_run = self.crops_run = 0

    def of_rows(
        self, rows: Sequence[PromptRow], bucket: Bucket
    ) -> tuple[list[EncodedImage], set[int]]:
        """Returns each row's image, and the requests that had to pay for them.

        A new image is paid by the first request about it.
        """
        keys = [(row.image, image_shape(bucket)) for row in rows]
        found = {key: self._kept.get(key) for key in keys}
        new: dict[Hashable, PromptRow] = {}
        for key, row in zip(keys, rows, strict=True):
            if row.image is None:
                found[key] = self._no_image(bucket)
            elif found[key] is None:
                new.setdefault(key, row)
        found |= self._encode(new, bucket)
        payers = {row.requests[0].number for row in new.values()}
        return [found[key] for key in keys], payers

    def clear(self) -> None:
        """Lets go of all images."""
        self._kept.clear()

    def _encode(
        self, new: dict[Hashable, PromptRow], bucket: Bucket
    ) -> dict[Hashable, EncodedImage]:
        made: dict[Hashable, EncodedImage] = {}
        left = list(new.items())
        while left:
            size = program_rows(
                len(left), self._programs.shapes.engine_config.images_at_once
            )
            group, left = left[:size], left[size:]
            buckets = self._programs.shapes.buckets
            fields = [buckets.image_fields(row.sample, bucket) for _, row in group]
            fields += fields[-1:] * (size - len(fields))
            arrays = [
                np.stack([f[name] for f in fields]) if name in fields[0] else None
                for name in _FIELDS
            ]
            program = self._programs.encode(image_shape(bucket), size)
            images = program(self._programs.params, *arrays)
            self.images_run += len(group)
            self.crops_run += sum(row.sample.num_crops for _, row in group)
            for (key, _), image in zip(group, images, strict=False):
                made[key] = image
                self._kept.put(key, num_bytes_of(image), lambda image=image: image)
        return made

    def _no_image(self, bucket: Bucket) -> EncodedImage:
        """Returns an image that a mask hides: no tower for a prompt without image."""
        shape = image_shape(bucket)
        if shape not in self._blank:
            shapes = self._programs.shapes
            self._blank[shape] = shapes.placement.zeros(shapes.abstract_image(bucket))
        return self._blank[shape]
