"""The answers that are being decoded, in slots, by budget and bucket.

Slots come into being with the first request of their budget and bucket, and go when
nobody is there and others need the memory. Where there is never any memory left for
a budget, the others take no new requests after some turns, until there is.
"""

import collections
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket
from visor_jax.data.prompts.answer_text import AnswerText
from visor_jax.data.prompts.processor import Processor
from visor_jax.data.prompts.stop_tokens import NOT_FINITE
from visor_jax.inference.engine.budget_groups import PendingRows, RowPart, program_rows
from visor_jax.inference.engine.decode_batch import DecodeBatch
from visor_jax.inference.engine.packed_prompts import PreparedRequest, image_shape
from visor_jax.inference.engine.program_shapes import IMAGE_KEYS, SLOTS
from visor_jax.inference.engine.programs import Programs
from visor_jax.inference.engine.slots import Admitted, without_cache
from visor_jax.inference.generation.decode_step import DecodeState
from visor_jax.inference.generation.prefill_parts import ImageKeys
from visor_jax.runtime.device_cache import Held, num_bytes_of

Place = tuple[Budget, Bucket]
# Turns that a budget waits for memory before the others take no new requests.
_PATIENCE = 8


class Finished(NamedTuple):
    """An answer, end token included; log_probs: of its tokens first, if asked for."""

    request: PreparedRequest
    budget: Budget
    tokens: Int[np.ndarray, "U"]
    log_probs: Float[np.ndarray, "V"] | None


class Underway(NamedTuple):
    """What has been written of an answer so far; fields as of `Finished`."""

    request: PreparedRequest
    budget: Budget
    tokens: Int[np.ndarray, "U"]
    log_probs: Float[np.ndarray, "V"] | None


class DecodeBatches:
    """The slots of all budgets and buckets, within the memory's share."""

    def __init__(
        self,
        programs: Programs,
        processor: Processor,
        key: Key[Array, ""],
        *,
        images_kept: int,
    ) -> None:
        """Takes where programs come from, and the key of random draws.

        images_kept: keys and values of so many images, at most.
        """
        self._programs, self._processor, self._key = programs, processor, key
        self._batches: Held[Place, DecodeBatch] = Held(
            programs.shapes.share(SLOTS), is_busy=lambda batch: batch.is_busy
        )
        self._images: Held[Hashable, ImageKeys]
        self._images = Held(programs.shapes.share(IMAGE_KEYS), most=images_kept)
        self._refused: collections.Counter[Place] = collections.Counter()
        # Requests whose image went through the layers behind the trunk for another.
        self.read_alone: set[int] = set()
        # For whom the memory is that comes free next.
        self._next: Place | None = None

    def free_slots(self, budget: Budget, bucket: Bucket) -> int:
        """Returns how many requests of this budget and bucket could be prefilled."""
        if self._next not in (None, (budget, bucket)):
            return 0
        batch = self._batches.get((budget, bucket))
        if batch is not None:
            return len(batch.free)
        has_room = self._has_room((budget, bucket))
        return self._programs.shapes.slots(budget, bucket) if has_room else 0

    def slot_counts(self) -> tuple[int, int]:
        """Returns how many slots hold an answer, and how many there are."""
        requests = [each for _, b in self._batches.items() for each in b.requests]
        return len(requests) - requests.count(None), len(requests)

    def cache_bytes(self) -> dict[Place, int]:
        """Returns the bytes of keys and values that the slots of each hold."""
        batches = self._batches.items()
        return {place: batch.slots.cache.num_bytes() for place, batch in batches}

    def num_bytes(self) -> int:
        """Returns the bytes of all slots, with answers and tags."""
        return sum(num_bytes_of(batch.slots) for _, batch in self._batches.items())

    def prefill(
        self,
        budget: Budget,
        bucket: Bucket,
        pending: PendingRows,
        parts: Sequence[RowPart],
    ) -> None:
        """Puts these parts' requests into free slots, with their first tokens.

        Where an image has been behind the same text in this budget before, only the
        parts' text goes through the layers.
        """
        new, known = [], []
        for part in parts:
            images = self._images.get(self._image(part, budget, bucket))
            (new if images is None else known).append((part, images))
        most = self._programs.shapes.rows(bucket)
        for group in (new, known):
            while group:
                size = program_rows(len(group), most)
                self._prefill(budget, bucket, pending, group[:size], size)
                group = group[size:]

    def _prefill(
        self,
        budget: Budget,
        bucket: Bucket,
        pending: PendingRows,
        group: Sequence[tuple[RowPart, ImageKeys | None]],
        size: int,
    ) -> None:
        """Prefills parts whose images are all known, or all new.

        size: rows of the program; the first part fills up.
        """
        programs, batch = self._programs, self._batch(budget, bucket)
        parts, images = zip(*group, strict=True)
        filled = [*range(len(group)), *[0] * (size - len(group))]
        table = self._admit(batch, parts)
        arguments = (
            programs.params,
            pending,
            np.array([parts[i].place for i in filled], np.int32),
            batch.slots,
            programs.shapes.admission(table, len(batch.requests)),
            self._key,
        )
        asked = [[part.row.requests[i].number for i in part.indices] for part in parts]
        is_known = images[0] is not None
        # Of a row's requests the first one pays for the image.
        self.read_alone |= {n for each in asked for n in each[0 if is_known else 1 :]}
        if is_known:
            program = programs.prefill_text(budget, bucket, size)
            slots, first = program(*arguments, tuple(images[i] for i in filled))
            self._choose_first(batch, slots, first)
            return
        program = programs.prefill(budget, bucket, size)
        slots, first, made = program(*arguments)
        self._choose_first(batch, slots, first)
        for part, keys in zip(parts, made, strict=False):
            if part.row.image is not None:
                image = self._image(part, budget, bucket)
                self._images.put(image, num_bytes_of(keys), lambda keys=keys: keys)

    def _choose_first(
        self, batch: DecodeBatch, slots: DecodeState, first: tuple[Array, Array]
    ) -> None:
        """Puts slots into the batch, with the first tokens of those that come."""
        program = self._programs.first_tokens(len(batch.requests))
        light = program(without_cache(slots), *first)
        batch.slots = light.replace(cache=slots.cache, gates=slots.gates)

    def _admit(self, batch: DecodeBatch, parts: Sequence[RowPart]) -> list[Admitted]:
        """Returns the table of an admission, after the requests have their slots."""
        table, free = [], iter(batch.free)
        for number, part in enumerate(parts):
            last = part.row.last_indices()
            for index in part.indices:
                request, slot = part.row.requests[index], next(free)
                segment = part.row.segment_of(index)
                where = (number, int(last[index]), segment, slot)
                how = (request.limit, request.draw, request.seed, request.sampling)
                table.append(Admitted(*where, *how))
                batch.put(slot, request, self._text_of(request))
        return table

    def _text_of(self, request: PreparedRequest) -> AnswerText | None:
        """Returns what finds the stop strings of a request, if it has any."""
        stop = request.request.options.stop
        return self._processor.answer_text(stop) if stop else None

    def _image(self, part: RowPart, budget: Budget, bucket: Bucket) -> Hashable:
        """Returns what an image's keys and values depend on."""
        return part.row.requests[0].shared, budget, image_shape(bucket)

    def decode(self) -> Iterator[Finished | Underway]:
        """Yields what a turn of every budget finished, and how far the others are.

        An answer is finished at a stop string, too: its slot is free then, though the
        device goes on with its row until another comes.

        All turns are on their way before the first is looked at.
        """
        busy = [(place, b) for place, b in self._batches.items() if b.is_busy]
        for (budget, bucket), batch in busy:
            programs = self._programs
            kind = programs.decode_draws if batch.draws else programs.decode
            program = kind(budget, bucket)
            batch.slots = program(self._programs.params, batch.slots)
        # Behind these there is no text.
        ends = (*self._processor.eos_ids, NOT_FINITE)
        for (budget, _), batch in busy:
            slots = batch.slots
            finished, count, written, log_probs = jax.device_get(
                (slots.finished, slots.count, slots.written, slots.log_probs)
            )
            for slot, request in enumerate(batch.requests):
                if request is None:
                    continue
                tokens = written[slot, : count[slot]]
                length = batch.length_at_stop(slot, tokens, ends)
                scores = None if log_probs is None else log_probs[slot]
                if length is None and not finished[slot]:
                    yield Underway(request, budget, tokens, scores)
                    continue
                batch.requests[slot] = batch.texts[slot] = None
                yield Finished(request, budget, tokens[:length], scores)

    def keep_turns(self, pending: Collection[Place]) -> None:
        """Notes after a turn who is pending, so that nobody waits for ever."""
        refused = [
            place
            for place in pending
            if self._batches.get(place) is None and not self._has_room(place)
        ]
        self._refused = collections.Counter({p: self._refused[p] + 1 for p in refused})
        if self._next not in pending:
            self._next = None
        if self._next is None and refused:
            longest = max(refused, key=lambda place: self._refused[place])
            if self._refused[longest] > _PATIENCE:
                self._next = longest

    def drop(self, numbers: Collection[int]) -> None:
        """Frees the slots of requests with these numbers."""
        self.read_alone.difference_update(numbers)
        for _, batch in self._batches.items():
            batch.requests = [
                None if each is None or each.number in numbers else each
                for each in batch.requests
            ]

    def forget_images(self) -> None:
        """Lets go of the keys and values of images."""
        self._images.clear()

    def clear(self) -> None:
        """Forgets all answers, the slots, and who waits."""
        self._batches.clear()
        self._refused.clear()
        self.read_alone.clear()
        self._next = None

    def _has_room(self, place: Place) -> bool:
        return self._batches.has_room(self._programs.shapes.slots_bytes(*place))

    def _batch(self, budget: Budget, bucket: Bucket) -> DecodeBatch:
        place, shapes = (budget, bucket), self._programs.shapes
        if self._next == place:
            self._next = None
        batch = self._batches.get(place)
        if batch is not None:
            return batch
        count = shapes.slots(budget, bucket)
        return self._batches.put(
            place,
            shapes.slots_bytes(budget, bucket),
            lambda: DecodeBatch(
                self._programs.new_slots(budget, bucket),
                requests=[None] * count,
                texts=[None] * count,
                looked_at=[0] * count,
            ),
        )
