"""What a policy learns from: questions about pages, or converted conversations."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from visor_jax import command_line
from visor_jax.batch import Batch
from visor_jax.data.conversations.run_data import RunData
from visor_jax.data.settings import PAGES
from visor_jax.evals.evaluation_set import EvaluationSet
from visor_jax.policy.choose import relative_costs
from visor_jax.settings import PolicySettings
from visor_jax.tasks.conversations import open_conversations
from visor_jax.tasks.run import Run
from visor_jax.training import policy_stages, stages
from visor_jax.training.policy_objective import BLENDED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Questions:
    """The questions of a run.

    costs: relative LLM FLOPs of the budgets, for a question of ordinary length.
    rows: packed rows to score at every budget; of no use where gates are blended.
    blended: the run's batches, one question in a row, where gates are blended.
    """

    costs: np.ndarray
    rows: Iterable[Batch] = ()
    blended: stages.TrainingData | None = None


def of_run(run: Run, cache: Path) -> Questions:
    """Returns the questions that the configuration asks for.

    Args:
      cache: folder for drawn pages, or for measured lengths.

    Raises:
      Stopped: if asked to stop meanwhile.
    """
    pages = run.settings.data.kind == PAGES
    return _of_pages(run, cache) if pages else _of_conversations(run, cache)


def page_costs(settings: PolicySettings) -> np.ndarray:
    """Returns the budgets' relative costs for a question about a page."""
    prompt = EvaluationSet.make(1).prompts(1)
    return relative_costs(
        settings.model,
        settings.budgets,
        text_tokens=prompt.tokens.shape[1],
        image_tokens=prompt.image_positions.shape[1],
    )


def _of_pages(run: Run, cache: Path) -> Questions:
    s = run.settings
    blended = s.objective.kind == BLENDED
    pool = stages.page_pool(
        policy_stages.SPLIT,
        s.data.pages.pool_size,
        seed=s.seed if blended else s.scores.seed,
        cache=cache,
        interruption=run.interruption,
    )
    if blended:
        data = policy_stages.single_questions(pool, s.data.pages, s.loop.steps)
        return Questions(costs=page_costs(s), blended=data)
    rows = policy_stages.scored_rows(pool, s.data.pages, s.scores)
    return Questions(costs=page_costs(s), rows=rows)


def _of_conversations(run: Run, cache: Path) -> Questions:
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
    with command_line.user_errors():
        data = open_conversations(s, cache=cache, interruption=run.interruption)
    if s.objective.kind == BLENDED:
        batches = stages.TrainingData(batches=data.batches(), example=data.example())
        return Questions(costs=_mean_costs(s, data), blended=batches)
    return Questions(costs=_mean_costs(s, data), rows=data.batches())


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
