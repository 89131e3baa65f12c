"""What the engine does next: rounds of prefilling and decoding."""

import functools
import time
from collections.abc import Collection

from visor_jax.data.buckets import Bucket
from visor_jax.data.prompts.processor import Processor
from visor_jax.data.prompts.stop_tokens import NOT_FINITE
from visor_jax.inference.answers import Answer, Outcome, Progress
from visor_jax.inference.confidence import confidence
from visor_jax.inference.engine.budget_groups import budgets_of_rows, program_rows
from visor_jax.inference.engine.decode_batches import (
    DecodeBatches,
    Finished,
    Underway,
)
from visor_jax.inference.engine.image_cache import ImageCache
from visor_jax.inference.engine.packed_prompts import PreparedRequest, PromptRow
from visor_jax.inference.engine.pending import PendingPrompts
from visor_jax.inference.engine.preparation import Preparation
from visor_jax.inference.engine.programs import Programs
from visor_jax.inference.engine.request_queue import (
    QueuedRequest,
    RequestQueue,
    RequestSource,
)
from visor_jax.inference.generation.finite import why_not_finite
from visor_jax.inference.options import Attempt


class Scheduler:
    """Every request that is not answered, wherever it stands.

    done: what is finished and not handed out yet, and where it was drawn from.
    """

    def __init__(
        self,
        programs: Programs,
        processor: Processor,
        images: ImageCache,
        decode_batches: DecodeBatches,
        preparation: Preparation,
    ) -> None:
        """Starts without requests."""
        self.programs, self.shapes = programs, programs.shapes
        self.processor, self.images = processor, images
        self.pending = PendingPrompts(programs, processor.pad_id)
        self.decode_batches = decode_batches
        self.queue = RequestQueue(preparation, programs.clock)
        self.done: list[tuple[Answer, RequestSource | None]] = []
        self._requests: dict[int, QueuedRequest] = {}
        self._payers: set[int] = set()
        # Of requests that look again: what their first look came to; in a second
        # budget, and at all crops.
        self._looks: dict[int, Attempt] = {}
        self._base_looks: dict[int, Answer] = {}

    @property
    def is_idle(self) -> bool:
        """Whether every request has been answered, and every answer handed out."""
        return self.queue.is_empty and not self._requests and not self.done

    def round(self) -> None:
        """Prefills and decodes; whatever goes wrong, nothing is left half done."""
        try:
            self._expire()
            while (
                self._prefill_group(full=True)
                or self._prefill_rows()
                or self._prefill_group(full=False)
            ):
                pass
            for written in self.decode_batches.decode():
                if isinstance(written, Underway):
                    self._tell(written)
                else:
                    self._finish(written)
            groups = self.pending.groups()
            pending = [(budget, bucket) for bucket, budget, *_ in groups]
            self.decode_batches.keep_turns(pending)
        except BaseException:
            self.forget()
            raise

    def forget(self) -> None:
        """Leaves the engine as new but for what is compiled and encoded."""
        for each in (self.queue, self.pending, self.decode_batches):
            each.clear()
        for each in (self._requests, self._payers, self._looks, self._base_looks):
            each.clear()
        self.done.clear()

    def drop(self, source: RequestSource) -> None:
        """Forgets what was drawn from a source and is not answered."""
        numbers = {n for n, queued in self._requests.items() if queued.source is source}
        self.queue.close(source)
        self._drop(numbers)
        self.done = [each for each in self.done if each[1] is not source]

    def cancel(self, number: int) -> bool:
        """Forgets a request that is not answered; returns whether there was one."""
        is_here = number in self._requests
        is_here |= any(each.number == number for each in self.queue.submitted)
        if is_here:
            self._drop({number})
        return is_here

    def _drop(self, numbers: Collection[int]) -> None:
        for part in (self.queue, self.pending, self.decode_batches):
            part.drop(numbers)
        for number in numbers:
            self._requests.pop(number, None)
            self._looks.pop(number, None)
            self._base_looks.pop(number, None)
            self._payers.discard(number)

    def _expire(self) -> None:
        """Hands out that the time of requests is up, and forgets them."""
        waiting, now = (*self._requests.values(), *self.queue.submitted), None
        late = []
        for queued in waiting:
            if queued.due is not None:
                now = time.monotonic() if now is None else now
                late += [queued] if queued.due <= now else []
        for queued in late:
            answer = self._refused(queued, "its time was up", Outcome.EXPIRED)
            self.done.append((answer, queued.source))
        if late:
            self._drop({queued.number for queued in late})

    @functools.cached_property
    def _why_not_finite(self) -> str:
        return why_not_finite(self.programs.params)

    def _take_in(self) -> None:
        for queued in self.queue.take_in():
            if queued.error is None:
                self._requests[queued.number] = queued
            else:
                self.done.append((self._refused(queued, queued.error), queued.source))

    def _prefill_rows(self) -> bool:
        """Takes a batch of rows through the trunk; returns whether there was one."""
        self._take_in()
        found = self.queue.rows()
        if found is None:
            return False
        bucket, rows = found
        most = self.shapes.rows(bucket)
        possible = min(len(rows), self.pending.free_places(bucket), most)
        if not possible:
            return False
        size = program_rows(possible, most)
        rows = rows[: min(size, possible)]
        self.queue.remove(rows)
        self._prefill_trunk(bucket, rows, size)
        return True

    def _prefill_trunk(self, bucket: Bucket, rows: list[PromptRow], size: int) -> None:
        images, payers = self.images.of_rows(rows, bucket)
        self._payers |= payers
        places, scores = self.pending.prefill_trunk(bucket, rows, images, size)
        per_row = self.shapes.requests_per_row(bucket)
        try:
            budgets = budgets_of_rows(self.programs.router, rows, scores, per_row)
        except ValueError as error:
            # Rows that nobody can place must not keep the others waiting.
            self.pending.give_back(bucket, places)
            reason = f"no budget was chosen: {error}"
            for number in (each.number for row in rows for each in row.requests):
                self._hand_out(number, self._refused(self._requests[number], reason))
            return
        self.pending.add(bucket, places, rows, budgets)

    def _prefill_group(self, *, full: bool) -> bool:
        """Prefills a group of one budget; `full`: only one that fills a program."""
        for bucket, budget, groups, arrays in self.pending.groups():
            most = self.shapes.rows(bucket)
            free = self.decode_batches.free_slots(budget, bucket)
            fitting = groups.fitting(budget, rows=most, requests=free)
            if fitting < (most if full else 1):
                continue
            size = program_rows(fitting, most)
            parts = groups.take(budget, min(size, fitting))
            self.decode_batches.prefill(budget, bucket, arrays, parts)
            return True
        return False

    def _tell(self, written: Underway) -> None:
        """Tells whoever listens what has been written of an answer."""
        number = written.request.number
        listener = self._requests[number].listener
        # Of a first look nobody knows whether it is the answer.
        may_change = written.request.may_change and number not in self._looks
        if listener is not None and not may_change:
            tokens, scores = written.tokens.tolist(), written.log_probs
            log_probs = () if scores is None else scores[: len(tokens)].tolist()
            told = Progress(number, written.budget, tuple(tokens), tuple(log_probs))
            listener(told)

    def _finish(self, finished: Finished) -> None:
        """Hands an answer out, or has an unsure one of a cascade looked at again."""
        request, budget, written, log_probs = finished
        number = request.number
        if NOT_FINITE in written:
            why = self._why_not_finite
            seconds = self._seconds_of(self._requests[number])
            self._hand_out(number, Answer.failed(request, budget, why, seconds))
            return
        found = {"confidence": None, "steps": len(written) - 1}
        if log_probs is not None:
            found["confidence"] = confidence(log_probs[: len(written)])
        looked_before = tuple(filter(None, [self._looks.get(number)]))
        at_hand = self._layers_at_hand(number, behind_trunk=bool(looked_before))
        look = Attempt(budget=budget, at_hand=at_hand, **found)
        cascade = request.cascade
        if cascade and not looked_before and cascade.looks_again(look.confidence):
            self._looks[number] = look
            self.decode_batches.read_alone.discard(number)
            self.pending.look_again(number, cascade.second)
            return
        answer = Answer.of(
            request,
            written,
            self.processor,
            look,
            log_probs=() if log_probs is None else log_probs.tolist(),
            looks=() if cascade is None else (*looked_before, look),
            encoded=number in self._payers,
            seconds=self._seconds_of(self._requests[number]),
            first_look=self._base_looks.get(number),
        )
        looks_twice = request.look_cascade
        if looks_twice is not None and looks_twice.looks_again(answer.confidence):
            self._look_at_all(request, answer)
        else:
            self._hand_out(number, answer)

    def _look_at_all(self, request: PreparedRequest, unsure: Answer) -> None:
        """Has a request wait for a look at all crops, instead of an unsure answer."""
        self._let_go(request.number)
        self._base_looks[request.number] = unsure
        self.queue.look_again(request, unsure.budget)

    def _let_go(self, number: int) -> None:
        """Forgets what a request has of a look that is over."""
        self.pending.settle(number)
        self._looks.pop(number, None)
        self._payers.discard(number)
        self.decode_batches.read_alone.discard(number)

    def _hand_out(self, number: int, answer: Answer) -> None:
        """Forgets a request that is answered."""
        self._let_go(number)
        self._base_looks.pop(number, None)
        self.done.append((answer, self._requests.pop(number).source))

    def _layers_at_hand(self, number: int, *, behind_trunk: bool) -> tuple[int, ...]:
        """Returns in which layers a request found the image's keys and values.

        behind_trunk: whether the others are not run at all, as when looking again.
        """
        config, reducer = self.programs.model.config, self.programs.model.reducer
        trunk, found = config.plan.trunk_length, ()
        if number not in self._payers and not behind_trunk:
            # They were made with the image's tokens, up to a reducer's first stage.
            kept = min(reducer.stages, default=trunk)
            found = tuple(i for i in config.plan.cross_layers if i < min(trunk, kept))
        if number in self.decode_batches.read_alone:
            found += tuple(range(trunk, config.plan.num_layers))
        return found

    def _refused(
        self,
        queued: QueuedRequest,
        reason: str,
        outcome: Outcome = Outcome.REFUSED,
    ) -> Answer:
        seconds = self._seconds_of(queued)
        what = (queued.number, queued.request, reason, outcome)
        return Answer.refused(*what, seconds=seconds)

    def _seconds_of(self, queued: QueuedRequest) -> float:
        if queued.began is None:
            return 0.0
        return self.programs.clock.seconds() - queued.began
