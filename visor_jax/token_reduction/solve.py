"""Finds the position of a method's knob that meets a budget, on the host.

The more the knob keeps, the dearer the prompt, in steps of whole tokens: bisection
finds the step at which the budget is crossed, and of its two sides the nearer is taken.
"""

import functools
from collections.abc import Callable
from typing import Protocol

from visor_jax.budget import Budget
from visor_jax.flops.account import account
from visor_jax.models.config import VLMConfig

# Text of the prompt that `llm_flops` is a share of: the smallest bucket's.
TEXT_TOKENS = 64
_HALVINGS = 32
# A position at which one token stays of any image.
_LEAST = 1e-9
# How a budget may be exceeded by arithmetic alone.
_SLACK = 1e-9


class Tunable(Protocol):
    """What has a knob. See `layer_stages.LayerStages`."""

    average: float | None
    llm_flops: float | None
    network: VLMConfig | None
    stages: tuple[int, ...]

    def lengths_at(
        self, image_tokens: int, num_layers: int, knob: float | None
    ) -> tuple[int, ...]:
        """Returns how many image tokens each layer sees."""
        ...

    def most(self, image_tokens: int) -> float:
        """Returns the knob at which nothing is dropped."""
        ...

    def flops_of(
        self, config: VLMConfig, text_tokens: int, image_tokens: int, knob: float | None
    ) -> int:
        """Returns the FLOPs of the method's own work."""
        ...


@functools.lru_cache(4096)
def knob(method: Tunable, image_tokens: int) -> float:
    """Returns the knob whose cost is nearest to the method's budget.

    Raises:
      ValueError: if even the cheapest position costs more, with what it costs; or if
        nobody has said for which network.
    """
    if method.network is None:
        raise ValueError(
            f"{method} has a budget that depends on the network: say for which with "
            "`fitted(config)`."
        )
    cost, wanted = _cost(method, image_tokens), _wanted(method)
    low, high = _LEAST, method.most(image_tokens)
    if cost(high) <= wanted + _SLACK:
        return high
    if cost(low) > wanted + _SLACK:
        raise ValueError(_why_impossible(method, image_tokens, cost(low)))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if cost(middle) <= wanted + _SLACK:
            low = middle
        else:
            high = middle
    return min(low, high, key=lambda each: abs(cost(each) - wanted))


def _wanted(method: Tunable) -> float:
    return method.llm_flops if method.average is None else method.average


def _cost(method: Tunable, image_tokens: int) -> Callable[[float], float]:
    """Returns what a position of the knob costs, in the budget's own measure."""
    config = method.network
    depth = config.plan.num_layers
    prompt = {"text_tokens": TEXT_TOKENS, "image_tokens": image_tokens}
    counted = functools.partial(
        account,
        config,
        Budget.all(config.plan),
        **prompt,
        crops=0,
        logit_positions=1,
    )
    dense = counted().dense().llm_prefill

    def average(knob: float) -> float:
        return sum(method.lengths_at(image_tokens, depth, knob)) / depth

    def share(knob: float) -> float:
        cost = counted(
            image_lengths=method.lengths_at(image_tokens, depth, knob),
            selection=method.flops_of(config, **prompt, knob=knob),
        )
        return cost.llm_prefill / dense

    return share if method.average is None else average


def _why_impossible(method: Tunable, image_tokens: int, least: float) -> str:
    name = "llm_flops" if method.average is None else "average"
    stages = "+".join(map(str, method.stages))
    what = (
        f"{type(method).__name__} cannot reach {name}={_wanted(method):g} with "
        f"{image_tokens} image tokens"
    )
    if not stages:
        return f"{what}: with one token left it is at {least:.4g}. Give at least that."
    return (
        f"{what}: it drops some before the layers {stages} of "
        f"{method.network.plan.num_layers}, and with one token left behind each it is "
        f"at {least:.4g}. Give at least that, earlier layers, or smaller images."
    )
