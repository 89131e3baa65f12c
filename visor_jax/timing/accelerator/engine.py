"""Part 6: requests of mixed budgets, against each budget alone.

The decoder is the 0.5B network's; pages and their questions are those of the embedded
benchmark, whose processor needs no files. expected: what the mixed requests should take
by each budget's own time; of_expected: that over what they took.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from visor_jax.budget import Budget
from visor_jax.data.pages.pool.drawing import IMAGE_SIZE
from visor_jax.data.pages.processor import page_processor
from visor_jax.data.pages.questions import QUESTIONS
from visor_jax.data.pages.tokenizer import page_tokenizer
from visor_jax.data.prompts.request import Request
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.engine.engine_config import EngineConfig
from visor_jax.inference.routing.router import HostRouter
from visor_jax.models.config import VLMConfig
from visor_jax.models.variants import mini
from visor_jax.models.vlm import VLM
from visor_jax.timing.accelerator import network
from visor_jax.timing.accelerator.measure import Deadline, times_of
from visor_jax.timing.accelerator.record import Row

_MIXED = "mixed"


def rows(*, tiny: bool, deadline: Deadline) -> Iterator[Row]:
    """Yields each budget alone, then both mixed."""
    config, count = _config(tiny=tiny), 8 if tiny else 64
    budgets = [Budget.none(), Budget.all(config.plan)]
    requests = _requests(count)
    engine, rule = _engine(config, budgets, rows=4 if tiny else 32)
    place = {id(request): i for i, request in enumerate(requests)}
    rules = {budget.name: lambda _, i=i: i for i, budget in enumerate(budgets)}
    rules[_MIXED] = lambda request: place[id(request)] % len(budgets)
    milliseconds: dict[str, float] = {}
    for name, choose in rules.items():
        rule[0] = choose
        times = times_of(lambda: _answer(engine, requests), deadline)
        milliseconds[name] = times["ms"]
        row = {"what": "engine", "shape": f"{count} requests", "budget": name, **times}
        if name == _MIXED:
            alone = [milliseconds[budget.name] for budget in budgets]
            expected = sum(alone) / len(alone)
            row |= {"expected": expected, "of_expected": expected / times["ms"]}
        yield row | {"requests_per_s": 1e3 * count / times["ms"]}


def _config(*, tiny: bool) -> VLMConfig:
    """Returns the 0.5B network with the tower of the pages' network."""
    pages = network.size("0.5B", tiny=True).config
    if tiny:
        return pages
    full = network.size("0.5B").config
    vision = dataclasses.replace(mini().vision, width=256, mlp_width=1024)
    return full.replace(
        vision=vision, image_newline=False, grid_embedding=True, reading_layers=()
    )


def _requests(count: int) -> list[Request]:
    rng = np.random.default_rng(0)
    pages = rng.integers(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    return [
        Request(QUESTIONS[i % len(QUESTIONS)].text, [page])
        for i, page in enumerate(pages)
    ]


def _engine(
    config: VLMConfig, budgets: list[Budget], *, rows: int
) -> tuple[Engine, list[Callable[[Request], int]]]:
    """Returns an engine, and the list whose one rule says which budget is whose."""
    rule: list[Callable[[Request], int]] = [lambda _: 0]
    router = HostRouter(budgets, lambda request: rule[0](request))
    processor = page_processor(page_tokenizer())
    wanted = EngineConfig.of(
        rows=rows,
        slots=max(2 * rows, EngineConfig.requests_per_row),
        images_at_once=rows,
        new_tokens=processor.new_tokens,
    )
    params = network.random_params(config)
    engine = Engine(
        VLM(config), params, processor, router, config=wanted, images_kept=0
    )
    return engine, rule


def _answer(engine: Engine, requests: list[Request]) -> None:
    wrong = [answer.error for answer in engine.answer_all(requests) if answer.error]
    if wrong:
        raise ValueError(f"{len(wrong)} requests failed: {wrong[0]}")
