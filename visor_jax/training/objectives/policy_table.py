"""Batches of scored samples for the table objectives, as a resumable grain iterator.

Every epoch takes each sample once, in an order that depends on (seed, epoch) alone.
"""

import functools
from collections.abc import Sequence

import grain
import numpy as np
from jaxtyping import Float, Float32

from visor_jax.policy.labels import cheapest_adequate
from visor_jax.policy.scores import ScoredSamples
from visor_jax.training.objectives.policy_objective import PolicyObjective
from visor_jax.training.objectives.policy_step import ScoredBatch


def losses(samples: ScoredSamples, score: str) -> Float32[np.ndarray, "n budgets"]:
    """Returns the task loss of every sample at every budget, see `PolicyObjective`."""
    if score == "correct":
        return 1 - samples.correct.astype(np.float32)
    if score == "likelihood":
        return 1 - np.exp(samples.log_likelihood)
    return -samples.log_likelihood


def scored_table(
    samples: ScoredSamples,
    objective: PolicyObjective,
    costs: Float[np.ndarray, "budgets"],
) -> ScoredBatch:
    """Returns all samples as one batch, with losses and pseudo-labels."""
    right = objective.score == "correct"
    scores = samples.correct if right else np.exp(samples.log_likelihood)
    labels = cheapest_adequate(
        scores.astype(np.float64),
        costs,
        share=objective.share,
        reference=objective.reference,
    )
    return ScoredBatch(
        routing=samples.routing,
        image=samples.image,
        losses=losses(samples, objective.score),
        correct=samples.correct,
        labels=labels.astype(np.int32),
    )


class _Order:
    """Random access to the sample numbers of a run."""

    def __init__(self, count: int, total: int, seed: int) -> None:
        self._count, self._total, self._seed = count, total, seed
        self._epoch = functools.lru_cache(maxsize=2)(self._permutation)

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(self._count)

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, index: int) -> int:
        epoch, place = divmod(index, self._count)
        return int(self._epoch(epoch)[place])


def sample_iterator(
    table: ScoredBatch,
    *,
    batch_size: int,
    steps: int,
    seed: int,
    rows: slice | None = None,
) -> grain.DatasetIterator:
    """Returns an iterator over the `ScoredBatch`es (NumPy) of a run of `steps` steps.

    `get_state()` and `set_state()` save and restore its place.

    rows: of every batch, those that this process loads; None for all.
    """

    def assemble(numbers: Sequence[int]) -> ScoredBatch:
        chosen = np.array(numbers)[rows or slice(None)]
        fields = {n: getattr(table, n)[chosen] for n in table.__dataclass_fields__}
        return ScoredBatch(**fields)

    order = _Order(len(table.labels), batch_size * steps, seed)
    batches = grain.MapDataset.source(order).batch(batch_size, batch_fn=assemble)
    return iter(
        batches.to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        )
    )
