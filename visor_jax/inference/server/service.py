"""What the routes of a server share: the network, its engine's thread, the limits."""

import contextlib
import dataclasses
import functools
import secrets
import time
from collections.abc import Callable, Sequence

from fastapi import APIRouter

from visor_jax.data.buckets import Bucket
from visor_jax.data.prompts.request import Request
from visor_jax.inference.answers import Answer
from visor_jax.inference.engine.engine_config import EngineConfig
from visor_jax.inference.routing.cascade import CASCADE
from visor_jax.inference.routing.choose_budgets import AUTO
from visor_jax.inference.server.answer_stream import AnswerStream
from visor_jax.inference.server.api_errors import ApiError
from visor_jax.inference.server.engine_thread import EngineThread
from visor_jax.inference.server.metrics import Metrics
from visor_jax.inference.server.request_translation import Fetch, Translator
from visor_jax.inference.server.server_settings import ServerSettings
from visor_jax.inference.visor_model import VisorModel
from visor_jax.look_cascade import look_name
from visor_jax.runtime.arguments import shown


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Service:
    """A network behind an interface.

    budgets: names that requests may give. fetch: gives the content of http(s) images;
    None has them refused. more_routes: of the app, beside those that every server has.
    """

    model: VisorModel
    thread: EngineThread
    settings: ServerSettings
    metrics: Metrics
    budgets: tuple[str, ...]
    fingerprint: str
    fetch: Fetch | None = None
    more_routes: tuple[Callable[["Service"], APIRouter], ...] = ()
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))

    @functools.cached_property
    def translator(self) -> Translator:
        """What reads the bodies of requests."""
        return Translator(
            settings=self.settings,
            new_tokens=self.thread.engine.config.new_tokens,
            crop_size=self.model.processor.buckets.crop_size,
            fetch=self.fetch,
        )

    def check_model(self, name: str) -> None:
        """Raises ApiError for another name than that of this server's model."""
        if name != self.settings.name:
            why = f"There is no model {shown(name)} here: ask {self.settings.name!r}."
            raise ApiError(404, why, param="model", code="model_not_found")

    def ask(
        self, request: Request, *, tells_pieces: bool = True, tells_tokens: bool = False
    ) -> AnswerStream:
        """Returns the answer that is begun; on the event loop.

        tells_pieces, tells_tokens: see `AnswerStream`.

        Raises:
          ApiError: where no requests are taken now.
        """
        stream = AnswerStream(
            request,
            self.model.processor,
            seconds=self.settings.seconds,
            tells_pieces=tells_pieces,
            tells_tokens=tells_tokens,
            on_close=self.thread.cancel,
        )
        self.thread.ask(stream)
        return stream

    def count(self, stream: AnswerStream, answer: Answer, visor: dict) -> None:
        """Notes an answer in the metrics."""
        self.metrics.tell_answer(
            answer,
            spent=visor["flops"]["total"],
            dense=visor["dense_flops"]["total"],
            seconds=stream.seconds,
            first_seconds=stream.seconds_to_first,
        )

    def describe(self) -> dict:
        """Returns the JSON of the model, as `/v1/models` lists it."""
        return {
            "id": self.settings.name,
            "object": "model",
            "created": self.created,
            "owned_by": "visor_jax",
            "visor": {
                "budgets": list(self.budgets),
                "budget": self.settings.budget,
                "looks": ["all", *self.thread.engine.crops.looks],
                "look": look_name(self.settings.look or "all"),
                "max_new_tokens": self.thread.engine.config.new_tokens,
                "fetches_urls": self.fetch is not None,
            },
        }


def make_service(
    model: VisorModel,
    settings: ServerSettings,
    *,
    budgets: Sequence[str] = (),
    looks: Sequence[str] = (),
    cost: float = 0.0,
    config: EngineConfig | None = None,
    buckets: Sequence[Bucket] | None = None,
    key: int | None = None,
    fetch: Fetch | None = None,
    more_routes: Sequence[Callable[[Service], APIRouter]] = (),
) -> Service:
    """Returns a service of a loaded network; its thread is not started yet.

    Args:
      budgets: names that requests may give, () for all that the network has (and
        "auto", "cascade"); that of the settings is among them anyway. looks: crops
        that requests may say beside those of the settings. cost: with "auto", of
        requests that say none.
      config: of the engine. buckets: whose programs are compiled before requests are
        taken; None for all. key: of random draws without a seed; None for other draws
        at every start. more_routes: see `Service`.

    Raises:
      ValueError: for budgets that the network has not, and as `VisorModel.engine`.
    """
    names = tuple(dict.fromkeys([settings.budget, *(budgets or budget_names(model))]))
    router = AUTO if AUTO in names else settings.budget
    engine = model.engine(
        router,
        cost=cost,
        budgets=[name for name in names if name not in (AUTO, router)],
        crops=settings.look,
        looks=looks,
        config=config,
        sampling=settings.sampling,
        key=secrets.randbits(31) if key is None else key,
        scored=True,
    )
    metrics = Metrics()
    every = engine.processor.buckets.all if buckets is None else buckets
    return Service(
        model=model,
        thread=EngineThread(engine, metrics, every),
        settings=settings,
        metrics=metrics,
        budgets=names,
        fingerprint=f"visor-{model.fingerprint[:12]}",
        fetch=fetch,
        more_routes=tuple(more_routes),
    )


def budget_names(model: VisorModel) -> list[str]:
    """Returns what requests to a network may call a budget."""
    names = list(model.budgets.names)
    if model.policy is not None:
        names.append(AUTO)
    with contextlib.suppress(ValueError):
        model.cascade()
        names.append(CASCADE)
    return names
