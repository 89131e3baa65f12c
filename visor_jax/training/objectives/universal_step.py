"""One step of universal training: one budget for the whole batch, one program for all.

The budget is drawn inside the step and reaches the model as traced gates, so that a
layer that is off costs nothing and nothing is compiled twice. A dense or a dedicated
network is the same step with a set of one budget.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from visor_jax.batch import Batch
from visor_jax.budget import ON_LEVEL
from visor_jax.models.config import ENTRY
from visor_jax.models.vlm import VLM
from visor_jax.ops.gating import one_of
from visor_jax.token_reduction.trained import drawn_in_training
from visor_jax.training.accumulation import Term, gradient
from visor_jax.training.objectives.budget_sampling import BudgetSchedule
from visor_jax.training.objectives.losses import (
    Summed,
    accuracy,
    cross_entropy,
    distillation,
    reading_loss,
)
from visor_jax.training.optimizer import merge, split_frozen
from visor_jax.training.state import BudgetSums, TrainState
from visor_jax.training.update import update

Tree = Any
Step = Callable[[TrainState, Batch], TrainState]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What a step minimises besides the answers' cross-entropy.

    reading_weight: of the auxiliary reading loss at the layers that are on.
    sandwich: every step also trains the largest and the smallest budget.
    distill_weight: of KL(largest budget || drawn budget), largest without gradient.
    """

    reading_weight: float = 0.0
    sandwich: bool = False
    distill_weight: float = 0.0

    def __post_init__(self) -> None:
        negative = {k: v for k, v in dataclasses.asdict(self).items() if float(v) < 0}
        if negative:
            raise ValueError(f"Weights must not be negative: {negative}.")


@flax.struct.dataclass
class _Sums:
    """What a forward pass at one budget adds up to."""

    answers: Summed
    hits: Summed
    reading: Summed


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """One forward pass at one budget."""

    sums: _Sums
    logits: Float[Array, "B T W"]


def make_universal_step(
    model: VLM,
    optimizer: optax.GradientTransformation,
    schedule: BudgetSchedule,
    objective: ObjectiveSettings,
    frozen: tuple[str, ...],
    accumulate: int = 1,
    *,
    skip_norm: float | None = None,
) -> Step:
    """Returns the pure function (state, batch) -> state. Jit it with donated state.

    accumulate: parts of the batch that are passed through one after another.
    skip_norm: as for `update`.
    """
    # Of one size, unless a token reducer is trained at several.
    models = drawn_in_training(model)
    ways = [_Minimised(each, schedule, objective) for each in models]

    def step(state: TrainState, batch: Batch) -> TrainState:
        key = jax.random.wrap_key_data(state.key)
        budget = schedule.draw(key, state.step)
        trainable, fixed = split_frozen(state.params, frozen)

        def gradient_of(minimised: _Minimised) -> tuple[Tree, _Sums]:
            def terms(trainable: Tree, batch: Batch) -> tuple[list[Term], _Sums]:
                return minimised(merge(trainable, fixed), batch, budget)

            return gradient(terms, trainable, batch, parts=accumulate)

        grads, sums = _of_one(ways, gradient_of, key, state.step)
        summed = functools.partial(
            state.sums.add,
            budget,
            steps=jnp.ones(()),
            loss=sums.answers.mean,
            hits=sums.hits.total,
            tokens=sums.hits.count,
            reading_loss=sums.reading.mean,
        )
        return update(
            state,
            grads,
            optimizer,
            frozen=frozen,
            loss=sums.answers.mean,
            sums=summed,
            skip_norm=skip_norm,
        )

    return step


def _of_one(
    ways: Sequence["_Minimised"],
    function: Callable[["_Minimised"], Any],
    key: Array,
    step: Int[Array, ""],
) -> Any:
    """Returns a function's value of the only way, or of one drawn for the step."""
    if len(ways) == 1:
        return function(ways[0])
    # Apart from the draw of the budget, which folds in the step alone.
    key = jax.random.fold_in(jax.random.fold_in(key, step), len(ways))
    index = jax.random.randint(key, (), 0, len(ways))
    return one_of(index, [functools.partial(function, way) for way in ways])


class _Minimised:
    """What a step minimises, as a function of parameters, batch and budget."""

    def __init__(
        self, model: VLM, schedule: BudgetSchedule, objective: ObjectiveSettings
    ) -> None:
        budgets, table = schedule.budgets, schedule.budgets.gate_table()
        self.model, self.schedule, self.objective = model, schedule, objective
        self.largest = jnp.asarray(table[budgets.index(budgets.largest)])
        self.smallest = jnp.asarray(table[budgets.index(budgets.smallest)])

    def __call__(
        self, params: Tree, batch: Batch, budget: Array
    ) -> tuple[list[Term], _Sums]:
        """Returns the addends of the loss and the sums of the drawn budget."""
        drawn = self._run(params, batch, self.schedule.gates(budget))
        outcomes, teacher = [drawn], None
        if self.objective.sandwich:
            teacher = self._run(params, batch, self.largest)
            outcomes += [teacher, self._run(params, batch, self.smallest)]
        elif self.objective.distill_weight:
            fixed = jax.lax.stop_gradient(params)
            teacher = self._run(fixed, batch, self.largest)
        share, terms = 1 / len(outcomes), []
        for outcome in outcomes:
            terms.append(Term(outcome.sums.answers, share))
            if self.objective.reading_weight:
                weight = share * self.objective.reading_weight
                terms.append(Term(outcome.sums.reading, weight))
            if self.objective.distill_weight and outcome is not teacher:
                gap = distillation(outcome.logits, teacher.logits, batch.loss_mask)
                terms.append(Term(gap, share * self.objective.distill_weight))
        return terms, drawn.sums

    def _run(
        self, params: Tree, batch: Batch, gates: Bool[Array, "S"] | Int[Array, "S"]
    ) -> _Outcome:
        reads = self.objective.reading_weight > 0
        output = self.model.apply({"params": params}, batch, gates, reading=reads)
        reading = Summed(jnp.zeros(()), jnp.zeros(()))
        if output.reading_logits:
            layers = self.model.config.plan.self_layers
            refines = gates if gates.dtype == jnp.bool_ else gates == ON_LEVEL
            is_on = {layer: refines[i] for i, layer in enumerate(layers)}
            # Where nothing refines it, what enters the decoder is all that text reads.
            is_on[ENTRY] = ~jnp.any(refines)
            reading = reading_loss(output.reading_logits, batch.image_labels, is_on)
        scored = (output.logits, batch.targets, batch.loss_mask)
        sums = _Sums(cross_entropy(*scored), accuracy(*scored), reading)
        return _Outcome(sums, output.logits)


def summary(sums: BudgetSums, names: tuple[str, ...]) -> dict[str, float]:
    """Returns the averages since the last log line, over all steps and per budget.

    Only of what there was: an average over no step (all were skipped), or over no
    token, is not a number and has no entry.
    """
    sums = jax.device_get(sums)
    steps, tokens = sums.steps.sum(), sums.tokens.sum()
    values = {}
    if steps:
        values["loss"] = sums.loss.sum() / steps
    if tokens:
        values["accuracy"] = sums.hits.sum() / tokens
    if steps:
        values["reading_loss"] = sums.reading_loss.sum() / steps
        values["grad_norm"] = sums.grad_norm.sum() / steps
    for i, name in enumerate(names):
        if sums.steps[i]:
            values[f"loss/{name}"] = sums.loss[i] / sums.steps[i]
        if sums.tokens[i]:
            values[f"accuracy/{name}"] = sums.hits[i] / sums.tokens[i]
    return values
