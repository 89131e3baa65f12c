"""What policy training needs before its first step: the frozen network and its scores.

The pages are of the split "policy", whose handwriting the network has not trained on
and the test does not use: scores on pages that the network has learnt by heart would
tell the policy that it needs less than it does.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from visor_jax.batch import Batch
from visor_jax.budget import BudgetSet
from visor_jax.checkpoints import layout
from visor_jax.checkpoints.restore import list_arrays, load_checkpoint
from visor_jax.data.pages.pool.pool import PagePool
from visor_jax.data.pages.questions import LONGEST_QUESTION
from visor_jax.data.pages.settings import PageDataSettings
from visor_jax.data.pages.training_batches import train_iterator
from visor_jax.models.config import VLMConfig
from visor_jax.models.parameters import parameter_shapes
from visor_jax.models.vlm import VLM
from visor_jax.policy.network import PARAMS, PolicyConfig, new_policy
from visor_jax.policy.score_cache import (
    ScoreCache,
    collect_scores,
    digest_of_arrays,
)
from visor_jax.policy.scores import ScoredSamples, score_batch
from visor_jax.runtime.interruption import Interruption
from visor_jax.runtime.progress import Progress
from visor_jax.sharding.param_rules import param_shardings
from visor_jax.training.policy_step import FROZEN, PolicySums
from visor_jax.training.stages import Stopped, TrainingData, page_data
from visor_jax.training.state import TrainState

Params = Any

SPLIT = "policy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """Which rows are scored at every budget: `batches` of `batch_size` rows.

    seed: of their pages and questions. It is not the run's, so that policies of any
    seed and objective share the scores of their network.
    cache: folder of the scores; None for the network's own (see `tasks.policy`).
    """

    batches: int
    batch_size: int = 64
    seed: int = 0
    cache: str | None = None

    def __post_init__(self) -> None:
        sizes = {"batches": self.batches, "batch_size": self.batch_size}
        wrong = {k: v for k, v in sizes.items() if v < 1}
        if wrong:
            raise ValueError(f"ScoreSettings needs values of at least 1: {wrong}.")
        if self.seed < 0:
            raise ValueError(f"scores.seed={self.seed} must not be negative.")


def frozen_backbone(path: str, config: VLMConfig, mesh: jax.sharding.Mesh) -> Params:
    """Returns a checkpoint's network, placed on the mesh, for a policy to stand beside.

    Heads of the reading loss and another policy are left behind.

    Raises:
      ValueError: if there is no checkpoint, or if it is of another network.
    """
    directory = layout.find_steps(path)[0]
    stored = list_arrays(directory, layout.PARAMS)
    tree = flax.traverse_util.unflatten_dict(stored, sep="/")
    placed = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        tree,
        param_shardings(tree, mesh),
    )
    params = load_checkpoint(directory, placed).params
    wanted = parameter_shapes(config)
    missing = sorted(set(wanted) - set(params))
    if missing:
        raise ValueError(f"{path} lacks the network's {missing}.")
    return {name: params[name] for name in wanted}


def fresh_policy_state(
    backbone: Params, config: PolicyConfig, width: int, optimizer: Any, *, seed: int
) -> TrainState:
    """Returns the state before the first step, but with a backbone of zeros.

    Its values need no program that makes them: they are put in afterwards.

    Args:
      backbone: arrays or their shapes.
      width: of the features that the policy reads.
    """
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), backbone)
    policy = new_policy(config, width, jax.random.key(seed))
    state = TrainState.create(
        {**zeros, PARAMS: policy},
        optimizer,
        FROZEN,
        seed=seed,
        num_budgets=config.num_budgets,
    )
    return state.replace(sums=PolicySums.zeros(config.num_budgets))


def single_questions(
    pool: PagePool, settings: PageDataSettings, steps: int
) -> TrainingData:
    """Returns batches with one question per row, as blended gates need them."""
    one = dataclasses.replace(
        settings, questions_per_page=1, text_length=LONGEST_QUESTION
    )
    return page_data(pool, one, steps, rows=None)


def scored_rows(
    pool: PagePool, settings: PageDataSettings, scores: ScoreSettings
) -> Iterator[Batch]:
    """Returns the packed rows about the pool's pages that a policy learns from."""
    rows = dataclasses.replace(settings, batch_size=scores.batch_size, seed=scores.seed)
    return train_iterator(pool, rows, steps=scores.batches)


def network_identity(model: VLM, params: Params) -> dict[str, Any]:
    """Returns what a network's scores depend on besides questions and budgets."""
    return {"params": digest_of_arrays(params), "model": model.config.to_dict()}


def cached_scores(
    model: VLM,
    params: Params,
    batches: Iterable[Batch],
    budgets: BudgetSet,
    *,
    total: int,
    cache: Path,
    put: Callable[[Batch], Batch] = jax.device_put,
    interruption: Interruption,
    description: str,
) -> ScoredSamples:
    """Returns the scores of all batches, see `policy.score_cache`, with progress.

    Args:
      total: how many batches there are. put: places one on the devices.

    Raises:
      Stopped: if asked to stop meanwhile; the scores so far are kept.
    """
    scores = ScoreCache(cache, network_identity(model, params))
    with Progress(total, description=description, unit="batches") as bar:

        def progress(done: int) -> None:
            bar.update(done)
            if interruption.requested and done < total:
                raise Stopped

        return collect_scores(
            scores,
            batches,
            budgets,
            lambda batch, lacking: score_batch(model, params, batch, lacking, put=put),
            progress=progress,
        )
