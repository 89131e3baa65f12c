"""What policy training needs before its first step: frozen network, questions, scores.

The pages are of the split "policy", whose handwriting the network has not trained on
and the test does not use: scores on pages that the network has learnt by heart would
tell the policy that it needs less than it does.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from visor_jax.batch import Batch
from visor_jax.budget import BudgetSet
from visor_jax.checkpoints.stored_network import read_newest
from visor_jax.data.conversations.run_data import RunData
from visor_jax.data.pages.pool.pool import PagePool
from visor_jax.data.pages.questions import LONGEST_QUESTION
from visor_jax.data.pages.settings import PageDataSettings
from visor_jax.data.pages.training_batches import train_iterator
from visor_jax.data.settings import PAGES
from visor_jax.evals.pages.benchmark import PROMPT_LENGTHS
from visor_jax.models.vlm import VLM
from visor_jax.policy.choose import relative_costs
from visor_jax.policy.network import PARAMS, PolicyConfig, new_policy
from visor_jax.policy.score_cache import (
    ScoreCache,
    ScoreSettings,
    collect_scores,
    digest_of_arrays,
)
from visor_jax.policy.scores import ScoredSamples, score_batch
from visor_jax.runtime.interruption import Interruption, Stopped
from visor_jax.runtime.progress import Progress
from visor_jax.runtime.user_error import as_user_errors
from visor_jax.settings.run_settings import PolicySettings
from visor_jax.tasks import training_data
from visor_jax.tasks.run import Run
from visor_jax.tasks.training_data import TrainingData, open_conversations, page_data
from visor_jax.training.objectives.policy_objective import BLENDED
from visor_jax.training.objectives.policy_step import FROZEN, PolicySums
from visor_jax.training.state import TrainState

Params = Any

SPLIT = "policy"


def frozen_backbone(path: str, mesh: jax.sharding.Mesh) -> Params:
    """Returns a checkpoint's network, placed on the mesh, for a policy to stand beside.

    Heads of the reading loss and another policy are left behind.

    Raises:
      ValueError: if there is no checkpoint, or its arrays are not its network's.
    """
    return read_newest(path, lambda stored: stored.read_params(mesh=mesh))


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
    pool: PagePool, settings: PageDataSettings, steps: int, rows: slice | None
) -> TrainingData:
    """Returns batches with one question per row, as blended gates need them.

    rows: of every batch, those that this process loads; None for all.
    """
    one = dataclasses.replace(
        settings, questions_per_page=1, text_length=LONGEST_QUESTION
    )
    return page_data(pool, one, steps, rows)


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyQuestions:
    """The questions of a run.

    costs: relative LLM FLOPs of the budgets, for a question of ordinary length.
    rows: packed rows to score at every budget; of no use where gates are blended.
    blended: the run's batches, one question in a row, where gates are blended.
    """

    costs: np.ndarray
    rows: Iterable[Batch] = ()
    blended: training_data.TrainingData | None = None


def policy_questions(run: Run, cache: Path) -> PolicyQuestions:
    """Returns the questions that the configuration asks for.

    Args:
      cache: folder for drawn pages, or for measured lengths.

    Raises:
      UserError: if the data or the processor cannot be used.
      Stopped: if asked to stop meanwhile.
    """
    pages = run.settings.data.kind == PAGES
    return _of_pages(run, cache) if pages else _of_conversations(run, cache)


def page_costs(settings: PolicySettings) -> np.ndarray:
    """Returns the budgets' relative costs for a question about a page."""
    return relative_costs(
        settings.model,
        settings.budgets,
        text_tokens=PROMPT_LENGTHS.text_tokens,
        image_tokens=PROMPT_LENGTHS.image_tokens,
    )


def _of_pages(run: Run, cache: Path) -> PolicyQuestions:
    s = run.settings
    blended = s.objective.kind == BLENDED
    pool = training_data.page_pool(
        SPLIT,
        s.data.pages.pool_size,
        seed=s.seed if blended else s.scores.seed,
        cache=cache,
        interruption=run.interruption,
    )
    if blended:
        data = single_questions(pool, s.data.pages, s.loop.steps, run.rows)
        return PolicyQuestions(costs=page_costs(s), blended=data)
    rows = scored_rows(pool, s.data.pages, s.scores)
    return PolicyQuestions(costs=page_costs(s), rows=rows)


def _of_conversations(run: Run, cache: Path) -> PolicyQuestions:
    """Every conversation is a question; its budget is chosen before the first answer.

    Blended gates need one in a row; scored ones share rows as in training.
    """
    s = run.settings
    if s.objective.kind == BLENDED:
        s = dataclasses.replace(s, data=dataclasses.replace(s.data, pack=False))
    else:
        s = dataclasses.replace(
            s,
            seed=s.scores.seed,
            data=dataclasses.replace(s.data, batch_size=s.scores.batch_size),
            loop=dataclasses.replace(s.loop, steps=s.scores.batches),
        )
    with as_user_errors():
        data = open_conversations(s, cache=cache, interruption=run.interruption)
    if s.objective.kind == BLENDED:
        batches = training_data.TrainingData(
            batches=data.batches(rows=run.rows), example=data.example()
        )
        return PolicyQuestions(costs=_mean_costs(s, data), blended=batches)
    return PolicyQuestions(costs=_mean_costs(s, data), rows=data.batches())


def _mean_costs(settings: PolicySettings, data: RunData) -> np.ndarray:
    """Returns the budgets' relative costs for a conversation of mean lengths."""
    lengths = data.lengths
    # Those that the processor refuses have no text.
    there = lengths.text_tokens > 0
    return relative_costs(
        settings.model,
        settings.budgets,
        text_tokens=round(float(lengths.text_tokens[there].mean())),
        image_tokens=round(float(lengths.image_tokens[there].mean())),
    )
