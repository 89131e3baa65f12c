"""How well every budget answers a sample: one trunk, then every budget's other layers.

A sample is one question with its answer (`policy.packed_answers`). An answer is right
if every one of its tokens is the likeliest, given the right ones before it: greedy
decoding then writes exactly this answer.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from visor_jax.batch import Batch
from visor_jax.budget import BudgetSet
from visor_jax.layer_plan import StaticGate
from visor_jax.models.decoder.decoder import DecoderState
from visor_jax.models.vlm import VLM, run_rest, run_trunk
from visor_jax.policy.features import PolicyFeatures, policy_features
from visor_jax.policy.packed_answers import PackedAnswers
from visor_jax.runtime.agreement import whole_arrays
from visor_jax.sharding.programs import mesh_jit

Params = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredSamples:
    """Samples with what the policy sees of them and how every budget answers them.

    routing, image: features, see `PolicyFeatures`. correct: whether the answer is
    right. log_likelihood: of the whole answer, nats. rows, slots: where the sample was
    in its batch, or rows counted over all batches where several are joined.
    """

    routing: Float32[np.ndarray, "n D"]
    image: Float32[np.ndarray, "n D"]
    correct: Bool[np.ndarray, "n budgets"]
    log_likelihood: Float32[np.ndarray, "n budgets"]
    rows: Int32[np.ndarray, "n"]
    slots: Int32[np.ndarray, "n"]

    @classmethod
    def join(cls, parts: Sequence["ScoredSamples"]) -> "ScoredSamples":
        """Returns the samples of all parts, one after another."""
        fields = [part.arrays() for part in parts]
        return cls(**{n: np.concatenate([f[n] for f in fields]) for n in fields[0]})

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns {field: array}."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @property
    def features(self) -> PolicyFeatures:
        """What the policy reads, a row per sample: (n, 1, D)."""
        routing, image = jnp.asarray(self.routing), jnp.asarray(self.image)
        return PolicyFeatures(routing[:, None], image[:, None])

    def __len__(self) -> int:
        return len(self.correct)


def score_batch(
    model: VLM,
    params: Params,
    batch: Batch,
    budgets: BudgetSet,
    *,
    put: Callable[[Batch], Batch] = jax.device_put,
) -> ScoredSamples:
    """Returns the scores of a batch's questions at every budget of the set.

    One program for the trunk and one per budget, with static gates. Several processes
    call it with the same batch, and each gets all scores.

    Args:
      batch: of the host.
      put: places it on the devices.
    """
    answers = PackedAnswers.of(batch)
    # Labels play no part here and must not make a program of their own.
    batch = put(batch.replace(image_labels=None))
    trunk, features = _trunk(params, batch, answers.routing, model=model)
    scored = [
        _score(params, trunk, answers, model=model, gates=budget.gates(budgets.plan))
        for budget in budgets
    ]
    rows, columns = np.nonzero(answers.asked)
    features, scored = whole_arrays((features, scored))
    right, likelihood = (
        np.stack([each[rows, columns] for each in parts], axis=1)
        for parts in zip(*scored, strict=True)
    )
    return ScoredSamples(
        routing=features.routing[rows, columns],
        image=features.image[rows, columns],
        correct=right,
        log_likelihood=likelihood,
        rows=rows.astype(np.int32),
        slots=answers.routing[rows, columns],
    )


@mesh_jit(static_argnames=("model",))
def _trunk(
    params: Params, batch: Batch, slots: Int[Array, "B R"], *, model: VLM
) -> tuple[DecoderState, PolicyFeatures]:
    # As a prefill does: its operations, so that scores are those of its answers.
    trunk = model.apply({"params": params}, batch, remember=True, method=run_trunk)
    return trunk, policy_features(trunk, slots)


@mesh_jit(static_argnames=("model", "gates"))
def _score(
    params: Params,
    trunk: DecoderState,
    answers: PackedAnswers,
    *,
    model: VLM,
    gates: tuple[StaticGate, ...],
) -> tuple[Bool[Array, "B R"], Float[Array, "B R"]]:
    """Returns whether each answer is right, and its log-likelihood."""

    def logits_of_answers(module: VLM) -> Float[Array, "B A W"]:
        done = run_rest(module, trunk, gates)
        return module.logits(done.text, answers.indices)

    logits = model.apply({"params": params}, method=logits_of_answers)
    return answer_scores(logits, answers)


def answer_scores(
    logits: Float[Array, "B A W"], answers: PackedAnswers
) -> tuple[Bool[Array, "B R"], Float[Array, "B R"]]:
    """Returns whether each answer is right, and its log-likelihood, from its logits."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    targets = answers.targets[..., None]
    picked = jnp.take_along_axis(log_probs, targets, axis=-1)[..., 0]
    missed = jnp.argmax(log_probs, axis=-1) != answers.targets
    rows = jnp.arange(len(answers.routing))[:, None]

    def per_answer(values: Array) -> Array:
        values = jnp.where(answers.exists, values, 0)
        empty = jnp.zeros(answers.routing.shape, values.dtype)
        return empty.at[rows, answers.answer].add(values)

    return per_answer(missed.astype(jnp.int32)) == 0, per_answer(picked)
