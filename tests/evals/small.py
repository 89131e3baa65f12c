"""A network for pages that compiles in a moment, and results made up for reports."""

import numpy as np

from visor_jax.budget import BudgetSet
from visor_jax.evals.harness import BudgetResult
from visor_jax.evals.pages.benchmark import EvaluationSet
from visor_jax.evals.report.rows import EvaluatedRun, RunFacts
from visor_jax.evals.statistics import Answers
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.config import (
    AdapterConfig,
    DecoderConfig,
    VisionConfig,
    VLMConfig,
)
from visor_jax.models.variants import dense

CONFIG = VLMConfig(
    vision=VisionConfig(
        width=16, mlp_width=24, num_layers=1, num_heads=2, image_size=96, patch_size=8
    ),
    decoder=DecoderConfig(
        vocab_size=64,
        width=16,
        mlp_width=24,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        rope_theta=1e4,
    ),
    adapter=AdapterConfig(num_kv_heads=2),
    plan=LayerPlan.build(3, cross=(0, 2), self_=(1,)),
    image_newline=False,
    grid_embedding=True,
)
BUDGETS = BudgetSet.parse(["none", "all"], CONFIG.plan)


def made_up_run(
    evaluation_set: EvaluationSet, label: str, *, seed: int = 0, right: float = 0.7
) -> EvaluatedRun:
    """Returns a run whose answers are right with the given probability."""
    config = dense(CONFIG) if label == "dense" else CONFIG
    names = ["none", "all"] if label == "universal" else [label.partition(":")[2]]
    budgets = BudgetSet.parse([name or "all" for name in names], config.plan)
    rng = np.random.default_rng(seed)
    pages, tasks = len(evaluation_set.pool), len(evaluation_set.task_names)
    results = []
    for budget in budgets:
        correct = rng.random(pages * tasks) < right
        answers = Answers(
            pages=np.repeat(np.arange(pages), tasks),
            tasks=np.tile(np.arange(tasks), pages),
            predicted=np.where(correct, 4, 5),
            targets=np.full(pages * tasks, 4),
            correct=correct,
        )
        results.append(
            BudgetResult(
                budget=budget, answers=answers, task_names=evaluation_set.task_names
            )
        )
    return EvaluatedRun(
        label=label,
        facts=RunFacts(preset="mini", seed=seed, train_steps=100, wall_clock_s=61.0),
        network=f"{label} {seed}",
        config=config,
        results=tuple(results),
        ms_per_sample={budget.name: 1.0 + seed for budget in budgets},
    )
