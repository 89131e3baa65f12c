"""The compiled programs of the engine; each is compiled once, at a known moment.

    encode   per image shape, images           pixels -> image tokens, K/V
    read     per bucket, rows                  rows of prompts -> waiting room, scores
    start    per budget, bucket, rows          waiting room -> slots, image K/V
    again    per budget, bucket, rows          waiting room, image K/V -> slots
    write    per budget and bucket             slots -> slots, a few tokens on

Gates are static: a program of a budget does not contain what the budget leaves out.
`read` ends before the first SELF layer and holds the chooser's device part.
"""

import logging
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket
from visor_jax.inference.engine.budget_groups import WaitingRoom
from visor_jax.inference.engine.packed_prompts import ImageShape, RowArrays, image_shape
from visor_jax.inference.engine.program_shapes import EncodedImage, ImageKeys, Shapes
from visor_jax.inference.engine.slots import Admission, Slots, admit, write_turn
from visor_jax.inference.routing.router import Chooser, features_of
from visor_jax.models.decoder.decoder import DecoderState
from visor_jax.models.decoder.kv_cache import KVCache
from visor_jax.models.vlm import VLM

Params = Any
Array = Any
_logger = logging.getLogger(__name__)


class Programs:
    """Compiles on demand, or ahead by `warm_up`; counts and logs every compilation."""

    def __init__(
        self,
        model: VLM,
        params: Params,
        chooser: Chooser,
        shapes: Shapes,
        *,
        log: Callable[[str], None] = _logger.debug,
    ) -> None:
        """Takes whatever is the same in all programs."""
        self.model, self.params, self.chooser = model, params, chooser
        self.shapes, self._log = shapes, log
        self.compiled: dict[Hashable, jax.stages.Compiled] = {}

    def encode(self, shape: ImageShape, images: int) -> jax.stages.Compiled:
        """Returns (params, pixels, index, weights, mask) -> one `EncodedImage` each."""

        def run(
            params: Params, pixels: Array, index: Array, weights: Array, mask: Array
        ) -> tuple[EncodedImage, ...]:
            arguments = (pixels, index, weights, mask)
            encoded = self.shapes.encoded(params, *arguments)
            return one_by_one(encoded, images)

        return self._get(
            ("encode", shape, images),
            lambda: jax.jit(run).trace(self.params, *self.shapes.pixels(shape, images)),
        )

    def read(self, bucket: Bucket, rows: int) -> jax.stages.Compiled:
        """Returns the program that reads rows into a waiting room.

        (params, chooser's params, room, rows, images, places) -> (room, scores).
        images: an `EncodedImage` per row. places: in the room; beyond it for rows
        that only fill up. The room is donated.
        """

        def run(
            params: Params,
            chooser_params: Params,
            room: WaitingRoom,
            rows: RowArrays,
            images: tuple[EncodedImage, ...],
            places: Array,
        ) -> tuple[WaitingRoom, Array]:
            trunk = self.shapes.trunk(params, rows, images)
            new = WaitingRoom(rows.tokens, trunk)
            room = jax.tree.map(
                lambda old, x: old.at[places].set(x, mode="drop"), room, new
            )
            features = features_of(trunk, rows.last)
            return room, self.chooser.scores(chooser_params, features)

        def trace() -> jax.stages.Traced:
            return jax.jit(run, donate_argnums=2).trace(
                self.params,
                self.chooser.params,
                self.shapes.abstract_room(bucket),
                self.shapes.empty_rows(bucket, rows),
                (self.shapes.abstract_image(bucket),) * rows,
                np.zeros(rows, np.int32),
            )

        return self._get(("read", bucket, rows), trace)

    def start(self, budget: Budget, bucket: Bucket, rows: int) -> jax.stages.Compiled:
        """Returns (params, room, places, slots, admission, key) -> (slots, images).

        places: (rows,) of the room. The slots are donated, and hold the first tokens of
        the answers afterwards. images: one `ImageKeys` per row, none if they are not
        kept.
        """
        gates, keeps = self._gates(budget), self.shapes.keeps_keys(budget, bucket)
        behind = self.model.config.plan.trunk_length

        def run(
            params: Params,
            room: WaitingRoom,
            places: Array,
            slots: Slots,
            admission: Admission,
            key: Array,
        ) -> tuple[Slots, tuple[ImageKeys, ...]]:
            group = jax.tree.map(lambda x: x[places], room)
            logits, cache = self._rest(params, group.trunk, gates, admission)
            new = (admission, logits, group.tokens, cache)
            made = tuple(layer.image for layer in cache.layers[behind:])
            images = one_by_one(made, rows if keeps else 0)
            return admit(slots, *new, self.shapes.rules, key), images

        def trace() -> jax.stages.Traced:
            arguments = self._abstract_group(budget, bucket, rows)
            return jax.jit(run, donate_argnums=3).trace(*arguments)

        return self._get(("start", budget, bucket, rows), trace)

    def again(self, budget: Budget, bucket: Bucket, rows: int) -> jax.stages.Compiled:
        """Returns (params, room, places, slots, admission, key, images) -> slots.

        As `start`, for images that have gone through the layers before, behind the same
        text: only text goes through them now. images: one `ImageKeys` per row.
        """
        gates = self._gates(budget)

        def run(
            params: Params,
            room: WaitingRoom,
            places: Array,
            slots: Slots,
            admission: Admission,
            key: Array,
            images: tuple[ImageKeys, ...],
        ) -> Slots:
            group = jax.tree.map(lambda x: x[places], room)
            together = jax.tree.map(lambda *x: jnp.concatenate(x), *images)
            logits, cache = self._rest(params, group.trunk, gates, admission, together)
            new = (admission, logits, group.tokens, cache)
            return admit(slots, *new, self.shapes.rules, key)

        def trace() -> jax.stages.Traced:
            arguments = self._abstract_group(budget, bucket, rows)
            images = (self.shapes.abstract_keys(budget, bucket),) * rows
            return jax.jit(run, donate_argnums=3).trace(*arguments, images)

        return self._get(("again", budget, bucket, rows), trace)

    def write(self, budget: Budget, bucket: Bucket) -> jax.stages.Compiled:
        """Returns (params, slots) -> slots after a turn. The slots are donated."""
        gates = self._gates(budget)

        def run(params: Params, slots: Slots) -> Slots:
            rules, tokens = self.shapes.rules, self.shapes.sizes.tokens_per_turn
            return write_turn(self.model, params, slots, gates, rules, tokens)

        def trace() -> jax.stages.Traced:
            slots = self.shapes.abstract_slots(budget, bucket)
            return jax.jit(run, donate_argnums=1).trace(self.params, slots)

        return self._get(("write", budget, bucket), trace)

    def all_keys(
        self, buckets: Iterable[Bucket], budgets: Iterable[Budget]
    ) -> list[tuple[Any, ...]]:
        """Returns the keys of all programs for these buckets and budgets.

        Raises:
          ValueError: for a bucket that does not fit into the engine's memory.
        """
        buckets, budgets = list(buckets), list(budgets)
        shapes = dict.fromkeys(image_shape(bucket) for bucket in buckets)
        counts, keeps = self.shapes.row_counts, self.shapes.keeps_keys
        most = self.shapes.sizes.images_at_once
        images = [1 << i for i in range(most.bit_length())]
        return [
            *(("encode", shape, n) for shape in shapes for n in images),
            *(("read", bucket, n) for bucket in buckets for n in counts(bucket)),
            *(
                key
                for budget in budgets
                for bucket in buckets
                for key in [
                    *(("start", budget, bucket, n) for n in counts(bucket)),
                    *(
                        ("again", budget, bucket, n)
                        for n in counts(bucket)
                        if keeps(budget, bucket)
                    ),
                    ("write", budget, bucket),
                ]
            ),
        ]

    def compile(self, key: tuple[Any, ...]) -> None:
        """Compiles the program of a key, unless that is done."""
        kind, *arguments = key
        getattr(self, kind)(*arguments)

    def new_room(self, bucket: Bucket) -> WaitingRoom:
        """Returns an empty waiting room on the device."""
        shapes = self.shapes.abstract_room(bucket)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def new_slots(self, budget: Budget, bucket: Bucket) -> Slots:
        """Returns free slots on the device."""
        count = self.shapes.slots(budget, bucket)
        return self.shapes.new_slots(budget, bucket, count)

    def _rest(
        self,
        params: Params,
        trunk: DecoderState,
        gates: tuple[bool, ...],
        admission: Admission,
        image_keys: ImageKeys | None = None,
    ) -> tuple[Array, KVCache]:
        """Returns the logits behind each question, and the cache of their rows.

        image_keys: of the layers behind the trunk, where they are at hand.
        """

        def run(module: VLM) -> tuple[Array, KVCache]:
            start = module.config.plan.trunk_length
            done, _ = module.run(trunk, gates, start=start, image_keys=image_keys)
            logits = module.logits(done.text, admission.last, admission.row)
            return logits, done.cache()

        return self.model.apply({"params": params}, method=run)

    def _gates(self, budget: Budget) -> tuple[bool, ...]:
        return budget.gates(self.model.config.plan)

    def _abstract_group(
        self, budget: Budget, bucket: Bucket, rows: int
    ) -> tuple[Any, ...]:
        """Returns the arguments of `start`, as shapes."""
        return (
            self.params,
            self.shapes.abstract_room(bucket),
            np.zeros(rows, np.int32),
            self.shapes.abstract_slots(budget, bucket),
            self.shapes.admission((), self.shapes.slots(budget, bucket)),
            jax.random.key(0),
        )

    def _get(
        self, key: tuple[Any, ...], trace: Callable[[], jax.stages.Traced]
    ) -> jax.stages.Compiled:
        if key not in self.compiled:
            began = time.perf_counter()
            self.compiled[key] = trace().lower().compile()
            self._log(f"compiled {name_of(key)} in {time.perf_counter() - began:.1f} s")
        return self.compiled[key]


def one_by_one(arrays: Any, count: int) -> tuple[Any, ...]:
    """Returns the first `count` rows of all arrays, each as a tree of its own."""
    return tuple(
        jax.tree.map(lambda x, i=i: x[i : i + 1], arrays) for i in range(count)
    )


def name_of(key: tuple[Any, ...]) -> str:
    """Returns what logs call a program: its kind, budget, lengths and rows."""
    words = []
    for part in key:
        if isinstance(part, Bucket):
            crops, tokens, _ = image_shape(part)
            words.append(f"{crops}x{tokens}+{part.text_tokens}")
        elif isinstance(part, tuple):
            words.append(f"{part[0]}x{part[1]}")
        else:
            words.append(str(part))
    return " ".join(words)
