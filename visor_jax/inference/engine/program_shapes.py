"""The shapes of what the engine holds on the device, and how much of it fits.

A device's memory is bounded by `EngineConfig.memory_bytes`, in fixed shares: half for
slots, the rest for rows that wait and for images. A bucket whose slots or rows are too
large for all that were wished for gets fewer, always the same number, so that programs
are known ahead:

    slots of budget sa1:3, 240 MB each, share 2 GB     16 wished    8 there
    rows that wait, 60 MB each, share 1 GB             32 wished   17 there

Parameters, and what a program needs while it runs, come on top.
"""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from visor_jax.budget import Budget
from visor_jax.data.buckets import CORNERS, Bucket, Buckets
from visor_jax.inference.engine.budget_groups import PendingRows
from visor_jax.inference.engine.engine_config import EngineConfig
from visor_jax.inference.engine.packed_prompts import (
    ImageShape,
    RowArrays,
    image_shape,
    row_arrays,
)
from visor_jax.inference.engine.placement import Placement
from visor_jax.inference.engine.slots import (
    Admission,
    Admitted,
    free_slots,
    without_cache,
)
from visor_jax.inference.generation.decode_step import DecodeState, Rules
from visor_jax.inference.generation.prefill_parts import (
    EncodedImage,
    ImageKeys,
    encode_images,
    prefill_trunk,
)
from visor_jax.models.decoder.kv_cache import KVCache
from visor_jax.models.vlm import VLM
from visor_jax.runtime.device_cache import num_bytes_of

Params = Any
Array = Any

# Shares of the memory; they add up to 1. The last two are for images that later prompts
# may find: their tokens, and their keys and values.
SLOTS, PENDING, IMAGE_TOKENS, IMAGE_KEYS = 0.5, 0.25, 0.0625, 0.1875
# Tokens that a request may count as used beside those of its prompt.
ALSO_USED = 8
# Numbers and shapes that are remembered, by budget and bucket.
_MOST_SHAPES = 4096


class ProgramShapes:
    """Shapes and numbers by budget and bucket; only `new_slots` makes arrays."""

    def __init__(
        self,
        model: VLM,
        params: Params,
        budgets: Sequence[Budget],
        buckets: Buckets,
        *,
        asked: Sequence[Budget] = (),
        engine_config: EngineConfig,
        rules: Rules,
        keep_images: bool = True,
        scored: bool = False,
    ) -> None:
        """Takes whatever shapes depend on.

        Args:
          budgets: that the router chooses from. asked: that requests may ask for beside
            these.
          scored: whether slots hold the log-probabilities of what they write.

        What is asked again and again is remembered: places(bucket), slots(budget,
        bucket): how many there are; pending_bytes(bucket), slots_bytes(budget, bucket):
        what they take, answers and tags included; requests_per_row(bucket): at most;
        keeps_keys(budget, bucket): whether images' keys and values are kept for later.

        Raises:
          ValueError: if no bucket fits into the memory.
        """
        self.model, self.buckets, self._chosen = model, buckets, tuple(budgets)
        self.budgets = tuple(dict.fromkeys([*budgets, *asked]))
        self.engine_config, self.rules = engine_config, rules
        self._keep_images, self.scored = keep_images, scored
        self._params = jax.eval_shape(lambda: params)
        self.placement = Placement.beside(params)
        remembered = functools.lru_cache(_MOST_SHAPES)
        self._row = remembered(self._row_shapes)
        self.slots = remembered(self._num_slots)
        self.places = remembered(self._num_places)
        self.slots_bytes = remembered(self._slots_bytes)
        self.pending_bytes = remembered(self._pending_bytes)
        self.keeps_keys = remembered(self._keeps_keys)
        self.requests_per_row = remembered(self._requests_per_row)
        self.check(self.buckets.all[0])

    def share(self, part: float) -> int:
        """Returns the bytes of a share of the memory."""
        return int(part * self.engine_config.memory_bytes)

    def check(self, bucket: Bucket, budget: Budget | None = None) -> None:
        """Raises ValueError unless a row of the bucket fits.

        budget: of the row; None for whatever the router may choose.
        """
        self.places(bucket)
        for each in self._chosen if budget is None else (budget,):
            self.slots(each, bucket)

    def rows(self, bucket: Bucket) -> int:
        """Returns how many rows are prefilled at once, at most: a power of two."""
        possible = min(self.engine_config.rows, self.places(bucket))
        return 1 << (possible.bit_length() - 1)

    def row_counts(self, bucket: Bucket) -> tuple[int, ...]:
        """Returns the rows that programs exist for: 1, 2, 4, ..."""
        return tuple(1 << i for i in range(self.rows(bucket).bit_length()))

    def _requests_per_row(self, bucket: Bucket) -> int:
        if self.model.reducer.reads_text:
            return 1
        # All of one budget must find slots at once.
        found = self.engine_config.requests_per_row
        for budget in self.budgets:
            # Requests that ask for one that does not fit are refused, each by itself.
            with contextlib.suppress(ValueError):
                found = min(found, self.slots(budget, bucket))
        return found

    def text_slots(self, bucket: Bucket) -> int:
        """Returns the text columns of a slot: the bucket's, and an answer's."""
        # The last token is never read.
        return bucket.text_tokens + self.engine_config.new_tokens - 1

    def new_slots(self, budget: Budget, bucket: Bucket, count: int) -> DecodeState:
        """Returns free slots."""
        if self.placement.mesh is None:
            return self._free_slots(budget, bucket, count)
        # An empty cache is nothing but zeros, and never whole on one device.
        shapes = self.abstract_slots(budget, bucket, count)
        cache = self.placement.zeros(shapes.cache)
        return self.placement.put(
            self._free_slots(budget, bucket, count, cache), shapes
        )

    def _free_slots(
        self, budget: Budget, bucket: Bucket, count: int, cache: KVCache | None = None
    ) -> DecodeState:
        return free_slots(
            self.model.config,
            budget.gates(self.model.config.plan),
            self.model.reducer,
            slots=count,
            text_slots=self.text_slots(bucket),
            image_tokens=bucket.image_tokens,
            new_tokens=self.engine_config.new_tokens,
            scored=self.scored,
            cache=cache,
        )

    def abstract_slots(
        self, budget: Budget, bucket: Bucket, count: int | None = None
    ) -> DecodeState:
        """Returns the shapes of a budget's slots; count: None for all that fit."""
        count = self.slots(budget, bucket) if count is None else count
        free = functools.partial(self._free_slots, budget, bucket, count)
        return self.placement.split(jax.eval_shape(free))

    def abstract_light_slots(self, count: int) -> DecodeState:
        """Returns the shapes of so many slots without their cache, of any budget."""
        slots = self.abstract_slots(self.budgets[0], self.buckets.all[0], count)
        return without_cache(slots)

    def abstract_pending(
        self, bucket: Bucket, places: int | None = None
    ) -> PendingRows:
        """Returns the shapes of pending rows; places: None for all that fit."""
        count = self.places(bucket) if places is None else places
        rows = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype),
            self._row(bucket),
        )
        return self.placement.copied(rows)

    def admission(self, requests: Sequence[Admitted], slots: int) -> Admission:
        """Returns the admission of these requests into a batch of so many slots."""
        return Admission.of(requests, slots=slots, also_room=ALSO_USED)

    def empty_rows(self, bucket: Bucket, count: int) -> RowArrays:
        """Returns rows of padding."""
        per_row = self.requests_per_row(bucket)
        return row_arrays([], bucket, count=count, per_row=per_row, pad_id=0)

    def abstract_image(self, bucket: Bucket) -> EncodedImage:
        """Returns the shapes of an encoded image."""
        arguments = self.pixels(image_shape(bucket), 1)
        encode = functools.partial(encode_images, self.model)
        return self.placement.copied(jax.eval_shape(encode, self._params, *arguments))

    def abstract_keys(self, budget: Budget, bucket: Bucket) -> ImageKeys:
        """Returns the shapes of an image's keys and values behind the trunk."""
        layers = self.abstract_slots(budget, bucket, 1).cache.layers
        keys = tuple(x.image for x in layers[self.model.config.plan.trunk_length :])
        return self.placement.copied(keys)

    def pixels(self, shape: ImageShape, images: int) -> tuple[Any, ...]:
        """Returns the shapes of what `encode_images` takes of so many images."""
        crops, tokens, corners, gaps = shape
        side = self.buckets.crop_size
        index, weights = (images, tokens), None
        places = jax.ShapeDtypeStruct(index, jnp.int32) if gaps else None
        if corners > 1:
            index = (*index, CORNERS)
            weights = jax.ShapeDtypeStruct(index, jnp.float32)
        shapes = (
            jax.ShapeDtypeStruct((images, crops, side, side, 3), jnp.float32),
            jax.ShapeDtypeStruct(index, jnp.int32),
            weights,
            jax.ShapeDtypeStruct((images, tokens), bool),
            places,
        )
        return self.placement.split(shapes)

    def _row_shapes(self, bucket: Bucket) -> PendingRows:
        """Returns the shapes of one row that waits."""
        rows, image = self.empty_rows(bucket, 1), self.abstract_image(bucket)
        arguments = jax.tree.map(jnp.asarray, (rows.tokens, rows.text, rows.image))
        through = functools.partial(prefill_trunk, self.model)
        trunk = jax.eval_shape(through, self._params, *arguments, [image])
        return PendingRows(jax.eval_shape(lambda: arguments[0]), trunk)

    def _slots_bytes(self, budget: Budget, bucket: Bucket) -> int:
        return num_bytes_of(self.abstract_slots(budget, bucket))

    def _pending_bytes(self, bucket: Bucket) -> int:
        return num_bytes_of(self.abstract_pending(bucket))

    def _keeps_keys(self, budget: Budget, bucket: Bucket) -> bool:
        trunk, reducer = self.model.config.plan.trunk_length, self.model.reducer
        if reducer.reads_text or any(stage >= trunk for stage in reducer.stages):
            # What is left of the image depends on the question, or is known only where
            # the image's own stream goes through the layers.
            return False
        size = num_bytes_of(self.abstract_keys(budget, bucket))
        return self._keep_images and 0 < size <= self.share(IMAGE_KEYS)

    def _num_slots(self, budget: Budget, bucket: Bucket) -> int:
        one = num_bytes_of(self.abstract_slots(budget, bucket, 1))
        what = f"one answer in budget {budget.name}"
        number = self._number(one, SLOTS, what, bucket)
        return self.placement.most_rows(self.engine_config.slots, number)

    def _num_places(self, bucket: Bucket) -> int:
        one = num_bytes_of(self.abstract_pending(bucket, 1))
        number = self._number(one, PENDING, "one prompt that waits", bucket)
        return min(self.engine_config.pending, number)

    def _number(self, one: int, part: float, what: str, bucket: Bucket) -> int:
        """Returns how many of so many bytes fit into a share of the memory."""
        number = self.share(part) // one
        if number < 1:
            crops, tokens, *_ = image_shape(bucket)
            least = -int(-one // part)
            raise ValueError(
                f"{what} needs {one / 1e6:.4g} MB at {crops} crops, {tokens} image and "
                f"{bucket.text_tokens} text tokens, but its share of "
                f"memory_bytes={self.engine_config.memory_bytes} is "
                f"{self.share(part) / 1e6:.4g} MB: allow {least} bytes "
                f"({least / 1e9:.3g} GB), or give fewer or smaller images, a shorter "
                "text, or fewer new tokens."
            )
        return number
