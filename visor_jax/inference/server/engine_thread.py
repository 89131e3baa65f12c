"""The one thread that has the engine: asks, steps, cancels, and ends in good order.

Others give it orders and never touch the engine. Whatever goes wrong in a step ends the
requests that the engine had with an error, and the next ones are answered.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from visor_jax.data.buckets import Bucket
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.server.answer_stream import AnswerStream, tell_news
from visor_jax.inference.server.api_errors import ApiError
from visor_jax.inference.server.metrics import Metrics

_logger = logging.getLogger(__name__)
_Order = tuple[Callable[[AnswerStream], None], AnswerStream] | None


class _EndingError(Exception):
    """The thread is to end before it was ready."""


class EngineThread:
    """Answers the requests of a server.

    is_ready: whether all is compiled and requests are taken. warmed_up: how many
    programs are compiled, and of how many. failure: why it never will be ready; None as
    long as all is well.
    """

    def __init__(
        self, engine: Engine, metrics: Metrics, buckets: Sequence[Bucket]
    ) -> None:
        """Starts nothing yet. buckets: whose programs are compiled before requests."""
        self.engine, self._metrics, self._buckets = engine, metrics, buckets
        self.is_ready, self.warmed_up = False, (0, 0)
        self.failure: str | None = None
        # None ends the thread, once it is idle.
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._streams: dict[int, AnswerStream] = {}
        self._numbers: dict[AnswerStream, int] = {}
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Starts the thread, which compiles first."""
        self._thread.start()

    def ask(self, stream: AnswerStream) -> None:
        """Has a request answered. Raises ApiError where none is taken."""
        if not self.is_ready:
            raise not_ready(self.failure)
        self._orders.put((self._ask, stream))

    def cancel(self, stream: AnswerStream) -> None:
        """Has a request forgotten; its slot is free for the next one."""
        self._orders.put((self._cancel, stream))

    def stop(self, seconds: float = 10.0) -> bool:
        """Takes no more requests; returns whether the thread has ended in time.

        What was asked before is answered first.
        """
        self.is_ready = False
        self._is_ending = True
        self._orders.put(None)
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.engine.warm_up(self._buckets, report=self._report)
            self._tell_metrics()
            self.is_ready = not self._is_ending
            while self._take_orders():
                self._step()
        except _EndingError:
            pass
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            _logger.exception("the engine's thread has ended")
        finally:
            self.is_ready = False
            self._fail_all(not_ready(self.failure))

    def _report(self, done: int, total: int, name: str, seconds: float) -> None:
        self.warmed_up = done, total
        _logger.info("program %d of %d: %s, %.1f s", done, total, name, seconds)
        if self._is_ending:
            raise _EndingError

    def _take_orders(self) -> bool:
        """Carries out what was ordered; returns whether to go on.

        Waits where there is nothing else to do.
        """
        while True:
            idle = self.engine.is_idle
            if idle and self._is_ending and self._orders.empty():
                return False
            try:
                order = self._orders.get(block=idle)
            except queue.Empty:
                return True
            if order is not None:
                do, stream = order
                do(stream)

    def _ask(self, stream: AnswerStream) -> None:
        try:
            number = self.engine.submit(
                stream.request,
                seconds=stream.due - time.monotonic(),
                listener=stream.hear,
            )
        except ValueError as error:
            self._metrics.outcomes.labels("refused").inc()
            stream.fail(ApiError(422, str(error)))
            tell_news([stream])
            return
        self._streams[number], self._numbers[stream] = stream, number

    def _cancel(self, stream: AnswerStream) -> None:
        number = self._numbers.pop(stream, None)
        if number is not None:
            self.engine.cancel(number)
            del self._streams[number]
            stream.fail(ApiError(499, "nobody waits for the answer"))
            tell_news([stream])
            self._metrics.outcomes.labels("cancelled").inc()
            self._tell_metrics()

    def _step(self) -> None:
        try:
            answers = self.engine.step()
        except Exception as error:
            # The engine has forgotten all of its requests and is as new.
            _logger.exception("a step of the engine failed")
            self._metrics.failed_steps.inc()
            self._fail_all(ApiError(500, f"The engine failed: {type(error).__name__}."))
            return
        heard = list(self._numbers)
        for answer in answers:
            stream = self._streams.pop(answer.number)
            del self._numbers[stream]
            self._metrics.outcomes.labels(answer.outcome.value).inc()
            stream.finish(answer)
        self._tell_metrics()
        tell_news(heard)

    def _fail_all(self, error: ApiError) -> None:
        for stream in self._numbers:
            self._metrics.outcomes.labels("failed").inc()
            stream.fail(error)
        tell_news(self._numbers)
        self._streams.clear()
        self._numbers.clear()

    def _tell_metrics(self) -> None:
        scheduler, programs = self.engine.scheduler, self.engine.programs
        busy, slots = scheduler.decode_batches.slot_counts()
        self._metrics.tell_engine(
            open_requests=len(self._streams),
            queued=scheduler.queue.waiting,
            busy_slots=busy,
            slots=slots,
            compiled=programs.compile_count,
            compile_seconds=programs.compile_seconds,
        )


def not_ready(failure: str | None = None) -> ApiError:
    """Returns the error of a server that takes no requests now."""
    if failure is not None:
        return ApiError(503, f"The server has failed: {failure}.", code="failed")
    why = "The server is not ready: it is starting, or shutting down. Try again."
    return ApiError(503, why, code="not_ready", headers={"retry-after": "5"})
