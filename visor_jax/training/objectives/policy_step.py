"""One step of policy training: the backbone is frozen, only the policy moves.

The objectives are those of `policy_objective`. A measure runs what one of them
needs and returns an `Outcome`; the rest of a step is the same for all of them.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from visor_jax.batch import Batch
from visor_jax.budget import BudgetSet
from visor_jax.models.vlm import VLM, run_rest, run_trunk
from visor_jax.policy.features import PolicyFeatures, policy_features
from visor_jax.policy.network import PARAMS, PolicyConfig, policy_logits
from visor_jax.training.objectives.policy_objective import (
    LABELS,
    TABLE,
    PolicyObjective,
)
from visor_jax.training.optimizer import split_frozen
from visor_jax.training.state import TrainState
from visor_jax.training.update import update

Tree = Any

# Everything but the policy: no gradients, no optimiser state, bit-identical for ever.
FROZEN = (f"^(?!{PARAMS}/)",)


@flax.struct.dataclass
class ScoredBatch:
    """Samples with what every budget makes of them; the batch of the table objectives.

    losses: task loss at every budget. correct: right there? labels: pseudo-labels.
    """

    routing: Float[Any, "B D"]
    image: Float[Any, "B D"]
    losses: Float[Any, "B budgets"]
    correct: Bool[Any, "B budgets"]
    labels: Int[Any, "B"]


@flax.struct.dataclass
class Outcome:
    """What the loss of one batch is made of; a number per sample.

    logits: the policy's. choice: weights of the budgets, one-hot for a sample. task:
    loss without the cost. right: share of right answers under that same choice.
    """

    logits: Float[Array, "B budgets"]
    choice: Float[Array, "B budgets"]
    task: Float[Array, "B"]
    right: Float[Array, "B"]


# From (policy's parameters, backbone's, batch, key, temperature) to an outcome.
Measure = Callable[[Tree, Tree, Any, Key[Array, ""], Float[Array, ""]], Outcome]


def straight_through(
    logits: Float[Array, "B budgets"],
    key: Key[Array, ""],
    temperature: Float[Array, ""] | float,
) -> Float[Array, "B budgets"]:
    """Returns a sampled one-hot choice with the gradient of the Gumbel-softmax."""
    noisy = logits + jax.random.gumbel(key, logits.shape, logits.dtype)
    soft = jax.nn.softmax(noisy / temperature)
    hard = jax.nn.one_hot(jnp.argmax(noisy, axis=-1), logits.shape[-1])
    # In this order the forward value is exactly the one-hot vector.
    return hard + (soft - jax.lax.stop_gradient(soft))


def table_measure(policy: PolicyConfig, kind: str) -> Measure:
    """Returns the measure of an objective that reads every budget's loss."""

    def measure(params, _, batch: ScoredBatch, key, temperature) -> Outcome:
        features = PolicyFeatures(batch.routing[:, None], batch.image[:, None])
        logits = policy_logits(policy, params, features)[:, 0]
        log_probs = jax.nn.log_softmax(logits)
        if kind == TABLE:
            choice = straight_through(logits, key, temperature)
        else:
            choice = jnp.exp(log_probs)
        task = jnp.sum(choice * batch.losses, axis=-1)
        right = jnp.sum(choice * batch.correct, axis=-1)
        if kind == LABELS:
            label = batch.labels[:, None]
            task = -jnp.take_along_axis(log_probs, label, axis=1)[:, 0]
        return Outcome(logits, choice, task, right)

    return measure


def blended_measure(
    model: VLM, policy: PolicyConfig, budgets: BudgetSet, score: str
) -> Measure:
    """Returns the measure that blends both branches of every SELF layer.

    Its batches are ordinary ones with one question per row.
    """
    gate_table = jnp.asarray(budgets.gate_table(), jnp.float32)

    def measure(params, backbone, batch: Batch, key, temperature) -> Outcome:
        variables = {"params": backbone}
        trunk = model.apply(variables, batch, method=run_trunk)
        trunk = jax.lax.stop_gradient(trunk)
        features = policy_features(trunk, _routing_indices(batch)[:, None])
        logits = policy_logits(policy, params, features)[:, 0]
        choice = straight_through(logits, key, temperature)

        def logits_of_text(module: VLM) -> Float[Array, "B T W"]:
            done = run_rest(module, trunk, choice @ gate_table)
            return module.logits(done.text)

        answers = model.apply(variables, method=logits_of_text)
        log_probs = jax.nn.log_softmax(answers, axis=-1)
        targets = batch.targets[..., None]
        picked = jnp.take_along_axis(log_probs, targets, axis=-1)[..., 0]
        total = jnp.sum(picked * batch.loss_mask, axis=1)
        missed = (jnp.argmax(answers, axis=-1) != batch.targets) & batch.loss_mask
        task = -total if score == "log_likelihood" else 1 - jnp.exp(total)
        right = 1.0 - jnp.any(missed, axis=1)
        return Outcome(logits, choice, task, right)

    return measure


def _routing_indices(batch: Batch) -> Int[Array, "B"]:
    """Returns the index of each row's first supervised token, its prompt's last."""
    never = jnp.iinfo(jnp.int32).max
    order = jnp.where(batch.loss_mask, batch.text_positions, never)
    return jnp.argmin(order, axis=1)


@flax.struct.dataclass
class PolicySums:
    """What happened since the last log line: {name: sum over steps}, and shares.

    chosen: weight that went to each budget: mean over a batch, sum over steps. Cost,
    accuracy and shares are of the same choice: a sample, or what the policy's
    probabilities give on average. What it would choose at inference, the report says.
    """

    steps: Float[Array, ""]
    values: dict[str, Float[Array, ""]]
    chosen: Float[Array, "budgets"]

    @classmethod
    def zeros(cls, num_budgets: int) -> "PolicySums":
        # One buffer each: the state is donated, and a buffer is donated only once.
        values = {name: jnp.zeros(()) for name in _VALUES}
        return cls(jnp.zeros(()), values, jnp.zeros(num_budgets))

    def add(self, chosen: Array, **values: Array) -> "PolicySums":
        """Returns the sums after one more step."""
        summed = {k: self.values[k] + v for k, v in values.items()}
        return PolicySums(self.steps + 1, summed, self.chosen + chosen)


_VALUES = ("loss", "task_loss", "cost", "entropy", "accuracy", "grad_norm")


def make_policy_step(
    measure: Measure,
    optimizer: optax.GradientTransformation,
    objective: PolicyObjective,
    costs: Float[np.ndarray, "budgets"],
    num_steps: int,
    *,
    skip_norm: float | None = None,
) -> Callable[[TrainState, Any], TrainState]:
    """Returns the pure function (state, batch) -> state. Jit it with donated state.

    costs: relative LLM FLOPs of the budgets, see `policy.choose`.
    skip_norm: as for `update`.
    """
    costs = jnp.asarray(costs, jnp.float32)
    first, last = objective.temperature

    def step(state: TrainState, batch: Any) -> TrainState:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        temperature = first * (last / first) ** (state.step / num_steps)
        trainable, fixed = split_frozen(state.params, FROZEN)

        def loss_of(trainable: Tree) -> tuple[Array, tuple[Array, dict[str, Array]]]:
            outcome = measure(trainable[PARAMS], fixed, batch, key, temperature)
            return _loss(outcome, objective, costs)

        grads, (chosen, values) = jax.grad(loss_of, has_aux=True)(trainable)
        return update(
            state,
            grads,
            optimizer,
            frozen=FROZEN,
            loss=values["loss"],
            sums=functools.partial(state.sums.add, chosen, **values),
            skip_norm=skip_norm,
        )

    return step


def _loss(
    outcome: Outcome, objective: PolicyObjective, costs: Float[Array, "budgets"]
) -> tuple[Array, tuple[Array, dict[str, Array]]]:
    """Returns (loss, (share of every budget, values to log))."""
    task, chosen = outcome.task.mean(), outcome.choice.mean(axis=0)
    log_probs = jax.nn.log_softmax(outcome.logits)
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1).mean()
    cost = chosen @ costs
    loss = task
    if objective.kind != LABELS:
        loss += objective.cost_weight * cost - objective.entropy_weight * entropy
    values = {
        "loss": loss,
        "task_loss": task,
        "cost": cost,
        "entropy": entropy,
        "accuracy": outcome.right.mean(),
    }
    return loss, (chosen, values)


def summary(sums: PolicySums, names: tuple[str, ...]) -> dict[str, float]:
    """Returns the averages since the last log line, and the share of every budget.

    Nothing where no step was taken since: an average over none is not a number.
    """
    sums = jax.device_get(sums)
    if not sums.steps:
        return {}
    values = {name: sums.values[name] / sums.steps for name in _VALUES}
    shares = zip(names, sums.chosen / sums.steps, strict=True)
    return {**values, **{f"share/{name}": share for name, share in shares}}
