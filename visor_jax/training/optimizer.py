"""AdamW or Muon, a warm-up, a plateau and a decay, and the choice of what trains."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import optax

from visor_jax.models.vision.projector import CONVOLUTION_PATTERN
from visor_jax.training.muon import muon_and
from visor_jax.training.parameter_groups import (
    REST,
    ParameterGroup,
    scale_by_group_rate,
)

Tree = Any
DECAYS = ("linear", "cosine")
MATRICES = ("adam", "muon")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Settings of AdamW, and of Muon beside it.

    learning_rate: at its peak, where no group has another.
    groups: {name: parameters with a learning rate of their own}; {} for one of all.
    accumulate: parts in which a batch passes through the network, one after another.
    warmup_steps: linear rise from 0.
    constant_until: fraction of the run at which the decay to 0 begins.
    decay: "linear" or "cosine".
    clip_norm: global gradient norm above which gradients are scaled down.
    skip_norm: global gradient norm above which a step is skipped; None for never.
    frozen: patterns (`re.search` on "a/b/c" paths) of parameters that do not train.
    convolution_begins: fraction of the run before which a projector's convolution does
      not learn; a warm-up of its own follows. A new one teaches the tower to read so
      fast that what it was pretrained on is forgotten. Its gradient is part of the
      global norm all the while, and the rates in the log are without it.
    matrices: "adam", or "muon" for the matrices of layers (`training.muon`); everything
      else has AdamW, at the same learning rates.
    """

    learning_rate: float
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    skip_norm: float | None = None
    warmup_steps: int = 0
    constant_until: float = 0.0
    decay: str = "cosine"
    frozen: tuple[str, ...] = ()
    groups: Mapping[str, ParameterGroup] = dataclasses.field(default_factory=dict)
    accumulate: int = 1
    convolution_begins: float = dataclasses.field(
        default=0.0, metadata={"came_later": True}
    )
    matrices: str = dataclasses.field(default="adam", metadata={"came_later": True})

    def __post_init__(self) -> None:
        if self.decay not in DECAYS:
            raise ValueError(f"decay={self.decay!r} is not one of {DECAYS}.")
        if self.matrices not in MATRICES:
            raise ValueError(f"matrices={self.matrices!r} is not one of {MATRICES}.")
        if not 0 <= self.constant_until <= 1:
            raise ValueError(f"constant_until={self.constant_until} is not in 0..1.")
        if self.skip_norm is not None and self.skip_norm <= self.clip_norm:
            raise ValueError(
                f"skip_norm={self.skip_norm} must be above clip_norm={self.clip_norm}: "
                "gradients in between are scaled down."
            )
        if self.learning_rate <= 0 or self.clip_norm <= 0 or self.warmup_steps < 0:
            raise ValueError(
                f"learning_rate={self.learning_rate} and clip_norm={self.clip_norm} "
                f"must be positive, warmup_steps={self.warmup_steps} not negative."
            )
        if not 0 <= self.convolution_begins < 1:
            raise ValueError(
                f"convolution_begins={self.convolution_begins} must be a fraction of "
                "the run, 0 for its start and below 1: a run without the convolution "
                "has model.projector_convolution=0."
            )
        if self.accumulate < 1:
            raise ValueError(f"accumulate={self.accumulate} must be at least 1.")
        if REST in self.groups:
            raise ValueError(
                f"groups: {REST!r} is the group of a run that names none: choose "
                "another name."
            )


def learning_rates(
    settings: OptimizerSettings, num_steps: int
) -> dict[str, optax.Schedule]:
    """Returns {group: learning rate as a function of the step}; without groups `REST`.

    Raises:
      ValueError: as `learning_rate_schedule`.
    """
    own = {name: group.learning_rate for name, group in settings.groups.items()}
    return {
        name: learning_rate_schedule(
            settings, num_steps, peak or settings.learning_rate
        )
        for name, peak in (own or {REST: None}).items()
    }


def logged_learning_rates(
    settings: OptimizerSettings, num_steps: int
) -> dict[str, optax.Schedule]:
    """Returns `learning_rates` by their names in the log: "learning_rate/<group>".

    Without groups "learning_rate".
    """
    return {
        "learning_rate" + (f"/{name}" if name != REST else ""): schedule
        for name, schedule in learning_rates(settings, num_steps).items()
    }


def learning_rate_schedule(
    settings: OptimizerSettings, num_steps: int, peak: float
) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    Raises:
      ValueError: if the warm-up is longer than the run.
    """
    if settings.warmup_steps >= num_steps:
        raise ValueError(
            f"warmup_steps={settings.warmup_steps} must be below the run's {num_steps} "
            "steps."
        )
    warmup = settings.warmup_steps
    decay_start = max(warmup, round(settings.constant_until * num_steps))
    rest = max(1, num_steps - decay_start)
    decay = (
        optax.linear_schedule(peak, 0.0, rest)
        if settings.decay == "linear"
        else optax.cosine_decay_schedule(peak, rest)
    )
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, max(1, warmup)),
            optax.constant_schedule(peak),
            decay,
        ],
        [warmup, decay_start],
    )


def make_optimizer(
    settings: OptimizerSettings, num_steps: int
) -> optax.GradientTransformation:
    """Returns clipping by the global norm followed by AdamW, or by Muon beside it.

    Raises:
      ValueError: as `learning_rate_schedule`; its `init` as `group_of_paths` and
        `muon_and`.
    """
    adam = optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=settings.eps)
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        muon_and(adam) if settings.matrices == "muon" else adam,
        optax.add_decayed_weights(settings.weight_decay),
        scale_by_group_rate(
            settings.groups,
            learning_rates(settings, num_steps),
            {CONVOLUTION_PATTERN: _convolution_share(settings, num_steps)},
        ),
    )


def _convolution_share(settings: OptimizerSettings, num_steps: int) -> optax.Schedule:
    """Returns the share of its group's rate that a projector's convolution has."""
    begin = round(settings.convolution_begins * num_steps)
    if begin == 0:
        return optax.constant_schedule(1.0)
    rise = optax.linear_schedule(0.0, 1.0, max(1, settings.warmup_steps))
    return optax.join_schedules([optax.constant_schedule(0.0), rise], [begin])


def split_frozen(params: Tree, patterns: tuple[str, ...]) -> tuple[Tree, Tree]:
    """Returns (trainable, frozen), two nested dicts that `merge` puts together.

    Frozen parameters get neither gradients nor optimiser state.

    Raises:
      ValueError: if a pattern matches nothing, or nothing is left to train.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    unused = [p for p in patterns if not any(re.search(p, path) for path in flat)]
    if unused:
        raise ValueError(f"frozen patterns {unused} match no parameter.")
    frozen = {
        path: x for path, x in flat.items() if any(re.search(p, path) for p in patterns)
    }
    trainable = {path: x for path, x in flat.items() if path not in frozen}
    if not trainable:
        raise ValueError(f"frozen patterns {list(patterns)} leave nothing to train.")
    unflatten = flax.traverse_util.unflatten_dict
    return unflatten(trainable, sep="/"), unflatten(frozen, sep="/")


def merge(trainable: Tree, frozen: Tree) -> Tree:
    """Returns the parameter tree that `split_frozen` took apart."""
    flatten = flax.traverse_util.flatten_dict
    return flax.traverse_util.unflatten_dict({**flatten(frozen), **flatten(trainable)})
