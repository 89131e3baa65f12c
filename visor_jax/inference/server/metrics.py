"""What a server counts, for Prometheus (`GET /metrics`)."""

import time

import jax
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
)

from visor_jax.inference.answers import Answer
from visor_jax.runtime.device_cache import num_bytes_of

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        """Starts at 0."""
        self.registry = CollectorRegistry()
        # Memory, processor time and open files.
        ProcessCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"visor_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"visor_{name}", text, registry=self.registry)

        def seconds(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            kept = {"registry": self.registry, "buckets": buckets}
            return Histogram(f"visor_{name}_seconds", text, **kept)

        self.responses = counter("http_responses", "HTTP responses.", "path", "status")
        self.answers = counter("answers", "Answers, by the budget of each.", "budget")
        self.outcomes = counter("outcomes", "Of all that was asked.", "outcome")
        self.failed_steps = counter("failed_steps", "Steps of the engine that failed.")
        self.prompt_tokens = counter("prompt_tokens", "Of answered prompts.", "kind")
        self.new_tokens = counter("generated_tokens", "Tokens of answers.")
        self.images = counter("images", "Prompts with an image.", "reused")
        self.spent = counter("flops_spent", "Of answers, as they were computed.")
        self.saved = counter("flops_saved", "That the dense network would take more.")
        self.compiled = counter("compiled_programs", "Programs that were compiled.")
        self.compile_seconds = counter("compile_seconds", "Spent on compiling.")
        self.held = gauge("requests_held", "Being read, waiting or being answered.")
        self.open = gauge("requests_in_engine", "That the engine has.")
        self.queued = gauge("requests_queued", "That no program has read yet.")
        self.busy_slots = gauge("slots_busy", "Answers that are being written.")
        self.slots = gauge("slots", "Places for answers that are on the device.")
        device = gauge("device_bytes", "Of arrays on the devices, parameters too.")
        device.set_function(lambda: num_bytes_of(jax.live_arrays()))
        self.first = seconds("time_to_first_token", "From a request's body.", _SECONDS)
        self.per_token = seconds(
            "time_per_output_token", "After the first of an answer.", _TOKEN_SECONDS
        )
        self.whole = seconds("request", "From a request's body to its end.", _SECONDS)
        self._threads = Gauge(
            "visor_thread_cpu_seconds",
            "Of the engine's thread and that of HTTP.",
            ("thread",),
            registry=self.registry,
        )
        self._compiled = (0, 0.0)

    def tell_thread(self, name: str) -> None:
        """Notes the processor time of the thread that calls it."""
        self._threads.labels(name).set(time.thread_time())

    def tell_engine(
        self,
        *,
        open_requests: int,
        queued: int,
        busy_slots: int,
        slots: int,
        compiled: int,
        compile_seconds: float,
    ) -> None:
        """Notes how the engine stands; on its thread.

        compiled: programs since its making.
        """
        self.tell_thread("engine")
        self.open.set(open_requests)
        self.queued.set(queued)
        self.busy_slots.set(busy_slots)
        self.slots.set(slots)
        count, seconds = self._compiled
        self.compiled.inc(compiled - count)
        self.compile_seconds.inc(compile_seconds - seconds)
        self._compiled = compiled, compile_seconds

    def tell_answer(
        self,
        answer: Answer,
        *,
        spent: int,
        dense: int,
        seconds: float,
        first_seconds: float,
    ) -> None:
        """Notes an answer. spent, dense: FLOPs, and those of the dense network.

        seconds, first_seconds: from its asking to its last token, and to its first.
        """
        assert answer.budget is not None
        self.answers.labels(answer.budget.name).inc()
        self.prompt_tokens.labels("text").inc(answer.text_tokens)
        self.prompt_tokens.labels("image").inc(answer.image_tokens)
        self.new_tokens.inc(answer.steps + 1)
        if answer.crops:
            self.images.labels("no" if answer.encoded else "yes").inc()
        self.spent.inc(spent)
        self.saved.inc(max(dense - spent, 0))
        self.first.observe(first_seconds)
        self.whole.observe(seconds)
        if answer.steps:
            self.per_token.observe((seconds - first_seconds) / answer.steps)
