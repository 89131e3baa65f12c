"""The compiled programs of the engine; each is compiled at a known moment.

    encode         per image shape, images    pixels -> image tokens, K/V
    prefill_trunk  per bucket, rows           rows of prompts -> pending rows, scores
    prefill        per budget, bucket, rows   pending rows -> slots, image K/V
    prefill_text   per budget, bucket, rows   pending rows, image K/V -> slots
    first_tokens   per number of slots        slots -> slots, a token on
    decode         per budget and bucket      slots -> slots, a few tokens on
    decode_draws   per budget and bucket      the same where some row draws

Gates are static: a program of a budget does not contain what the budget leaves out.
`prefill_trunk` ends before the first SELF layer and holds the router's device part.
"""

import logging
import time
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket
from visor_jax.inference.engine.budget_groups import PendingRows
from visor_jax.inference.engine.packed_prompts import ImageShape, RowArrays
from visor_jax.inference.engine.program_keys import name_of
from visor_jax.inference.engine.program_shapes import ProgramShapes
from visor_jax.inference.engine.slots import Admission, admit, decode_turn
from visor_jax.inference.generation.decode_step import DecodeState, with_token
from visor_jax.inference.generation.prefill_parts import (
    EncodedImage,
    ImageKeys,
    encode_images,
    one_by_one,
    prefill_rest,
    prefill_trunk,
)
from visor_jax.inference.routing.router import Router, features_of
from visor_jax.layer_plan import StaticGate
from visor_jax.models.vlm import VLM
from visor_jax.runtime.bounded_jit import ProgramCount
from visor_jax.runtime.device_cache import Held
from visor_jax.runtime.work_clock import WorkClock
from visor_jax.sharding.programs import mesh_of, on_mesh

Params = Any
Array = Any
_logger = logging.getLogger(__name__)


class Programs:
    """Compiles on demand, or ahead by `warm_up`; logs every compilation.

    The longest unused programs go where there are more than `EngineConfig.programs`.
    clock: of the engine's work; stands still while a program is compiled.
    compile_count, compile_seconds: of all that were.
    """

    def __init__(
        self,
        model: VLM,
        params: Params,
        router: Router,
        shapes: ProgramShapes,
        *,
        log: Callable[[str], None] = _logger.debug,
    ) -> None:
        """Takes whatever is the same in all programs."""
        self.model, self.params, self.router = model, params, router
        self.shapes, self._log, self._places = shapes, log, shapes.placement
        self.clock = WorkClock()
        self.compile_count, self.compile_seconds = 0, 0.0
        most = shapes.engine_config.programs
        self.let_go = ProgramCount(most, log)
        self.compiled: Held[Hashable, jax.stages.Compiled]
        self.compiled = Held(0, most=most, let_go=self.let_go.add)

    def encode(self, shape: ImageShape, images: int) -> jax.stages.Compiled:
        """Returns (params, what `encode_images` takes) -> one `EncodedImage` each."""

        def run(params: Params, *arrays: Array | None) -> tuple[EncodedImage, ...]:
            return one_by_one(encode_images(self.model, params, *arrays), images)

        def trace() -> jax.stages.Traced:
            pixels = self.shapes.pixels(shape, images)
            made = self._places.copied(jax.eval_shape(run, self.params, *pixels))
            return self._places.jit(run, made).trace(self.params, *pixels)

        return self._get(("encode", shape, images), trace)

    def prefill_trunk(self, bucket: Bucket, rows: int) -> jax.stages.Compiled:
        """Returns the program that takes rows through the trunk.

        (params, router's params, pending, rows, images, places) -> (pending, scores).
        images: an `EncodedImage` per row. places: among the pending; beyond for rows
        that only fill up. The pending rows are donated.
        """

        def run(
            params: Params,
            router_params: Params,
            pending: PendingRows,
            rows: RowArrays,
            images: tuple[EncodedImage, ...],
            places: Array,
        ) -> tuple[PendingRows, Array]:
            arguments = (jnp.asarray(rows.tokens), rows.text, rows.image, images)
            trunk = prefill_trunk(self.model, params, *arguments)
            new = PendingRows(rows.tokens, trunk)
            pending = jax.tree.map(
                lambda old, x: old.at[places].set(x, mode="drop"), pending, new
            )
            features = features_of(trunk, rows.last)
            return pending, self.router.scores(router_params, features)

        def trace() -> jax.stages.Traced:
            pending = self.shapes.abstract_pending(bucket)
            arguments = (
                self.params,
                self.router.params,
                pending,
                self._places.whole(self.shapes.empty_rows(bucket, rows)),
                (self.shapes.abstract_image(bucket),) * rows,
                self._places.whole(np.zeros(rows, np.int32)),
            )
            scores = self._places.whole(np.zeros(()))
            return self._places.jit(run, (pending, scores), donate=2).trace(*arguments)

        return self._get(("prefill_trunk", bucket, rows), trace)

    def prefill(self, budget: Budget, bucket: Bucket, rows: int) -> jax.stages.Compiled:
        """Returns the program that puts pending rows into slots.

        (params, pending, places, slots, admission, key) -> (slots, first, images).
        places: (rows,) of the pending. The slots are donated. first: what
        `first_tokens` takes beside them. images: one `ImageKeys` per row, none if they
        are not kept.
        """
        gates, keeps = self._gates(budget), self.shapes.keeps_keys(budget, bucket)
        behind = self.model.config.plan.trunk_length

        def run(
            params: Params,
            pending: PendingRows,
            places: Array,
            slots: DecodeState,
            admission: Admission,
            key: Array,
        ) -> tuple[DecodeState, tuple[Array, Array], tuple[ImageKeys, ...]]:
            group = jax.tree.map(lambda x: x[places], pending)
            arguments = (group.trunk, gates, admission.row, admission.last)
            logits, cache = prefill_rest(self.model, params, *arguments)
            new = (admission, logits, group.tokens, cache)
            made = tuple(layer.image for layer in cache.layers[behind:])
            images = one_by_one(made, rows if keeps else 0)
            return *admit(slots, *new, key), images

        def trace() -> jax.stages.Traced:
            arguments = self._abstract_group(budget, bucket, rows)
            kept = (self.shapes.abstract_keys(budget, bucket),) * (rows if keeps else 0)
            out = (*self._admitted(arguments[3]), kept)
            return self._places.jit(run, out, donate=3).trace(*arguments)

        return self._get(("prefill", budget, bucket, rows), trace)

    def prefill_text(
        self, budget: Budget, bucket: Bucket, rows: int
    ) -> jax.stages.Compiled:
        """Returns the program of `prefill` for images whose keys are at hand.

        (params, pending, places, slots, admission, key, images) -> (slots, first). The
        images have gone through the layers before, behind the same text: only text goes
        through them now. images: one `ImageKeys` per row.
        """
        gates = self._gates(budget)

        def run(
            params: Params,
            pending: PendingRows,
            places: Array,
            slots: DecodeState,
            admission: Admission,
            key: Array,
            images: tuple[ImageKeys, ...],
        ) -> tuple[DecodeState, tuple[Array, Array]]:
            group = jax.tree.map(lambda x: x[places], pending)
            together = jax.tree.map(lambda *x: jnp.concatenate(x), *images)
            arguments = (group.trunk, gates, admission.row, admission.last, together)
            logits, cache = prefill_rest(self.model, params, *arguments)
            new = (admission, logits, group.tokens, cache)
            return admit(slots, *new, key)

        def trace() -> jax.stages.Traced:
            arguments = self._abstract_group(budget, bucket, rows)
            images = (self.shapes.abstract_keys(budget, bucket),) * rows
            out = self._admitted(arguments[3])
            return self._places.jit(run, out, donate=3).trace(*arguments, images)

        return self._get(("prefill_text", budget, bucket, rows), trace)

    def first_tokens(self, slots: int) -> jax.stages.Compiled:
        """Returns (slots, logits, come) -> slots with the tokens of those that come.

        The slots, which are donated, are without their cache (`without_cache`): this is
        one program for all budgets and buckets with as many slots.
        """

        def run(light: DecodeState, logits: Array, come: Array) -> DecodeState:
            return with_token(light, logits, come, self.shapes.rules)

        def trace() -> jax.stages.Traced:
            light = self.shapes.abstract_light_slots(slots)
            _, (logits, come) = self._admitted(light)
            return self._places.jit(run, light, donate=0).trace(light, logits, come)

        return self._get(("first_tokens", slots), trace)

    def decode(self, budget: Budget, bucket: Bucket) -> jax.stages.Compiled:
        """Returns (params, slots) -> slots after a turn. The slots are donated.

        For rows that all take their likeliest token, without a penalty.
        """
        return self._decode("decode", budget, bucket, draws=False)

    def decode_draws(self, budget: Budget, bucket: Bucket) -> jax.stages.Compiled:
        """Returns what `decode` does, for rows of any sampling."""
        return self._decode("decode_draws", budget, bucket, draws=True)

    def _decode(
        self, kind: str, budget: Budget, bucket: Bucket, *, draws: bool
    ) -> jax.stages.Compiled:
        def run(params: Params, slots: DecodeState) -> DecodeState:
            rules, tokens = self.shapes.rules, self.shapes.engine_config.tokens_per_turn
            return decode_turn(self.model, params, slots, rules, tokens, draws=draws)

        def trace() -> jax.stages.Traced:
            slots = self.shapes.abstract_slots(budget, bucket)
            return self._places.jit(run, slots, donate=1).trace(self.params, slots)

        return self._get((kind, budget, bucket), trace)

    def compile(self, key: tuple[Any, ...]) -> None:
        """Compiles the program of a key, unless that is done."""
        kind, *arguments = key
        getattr(self, kind)(*arguments)

    def new_pending(self, bucket: Bucket) -> PendingRows:
        """Returns pending rows that are all free on the device."""
        shapes = self.shapes.abstract_pending(bucket)
        # The first arrays of a shape take a small program each.
        with self.clock.stopped():
            return self._places.zeros(shapes)

    def new_slots(self, budget: Budget, bucket: Bucket) -> DecodeState:
        """Returns free slots on the device."""
        count = self.shapes.slots(budget, bucket)
        with self.clock.stopped():
            return self.shapes.new_slots(budget, bucket, count)

    def _gates(self, budget: Budget) -> tuple[StaticGate, ...]:
        return budget.gates(self.model.config.plan)

    def _abstract_group(
        self, budget: Budget, bucket: Bucket, rows: int
    ) -> tuple[Any, ...]:
        """Returns the arguments of `prefill`, as shapes."""
        slots = self.shapes.slots(budget, bucket)
        return (
            self.params,
            self.shapes.abstract_pending(bucket),
            self._places.whole(np.zeros(rows, np.int32)),
            self.shapes.abstract_slots(budget, bucket),
            self._places.whole(self.shapes.admission((), slots)),
            self._places.whole(jax.random.key(0)),
        )

    def _admitted(self, slots: DecodeState) -> tuple[Any, tuple[Any, Any]]:
        """Returns the shapes of what `admit` gives."""
        logits = slots.used.update(dtype=jnp.float32)
        return slots, (logits, slots.finished)

    def _get(
        self, key: tuple[Any, ...], trace: Callable[[], jax.stages.Traced]
    ) -> jax.stages.Compiled:
        program = self.compiled.get(key)
        if program is None:
            began = time.perf_counter()
            with self.clock.stopped(), on_mesh(mesh_of(self.params)):
                program = trace().lower().compile()
            self.compiled.put(key, 0, lambda: program)
            seconds = time.perf_counter() - began
            self.compile_count += 1
            self.compile_seconds += seconds
            self._log(f"compiled {name_of(key)} in {seconds:.1f} s")
        return program
