"""The task "policy": a frozen network learns which budget a sample needs."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax

from visor_jax import command_line
from visor_jax.evals.evaluation_set import EvaluationSet
from visor_jax.evals.policy_report import PolicyFacts, write_policy_report
from visor_jax.policy.choose import relative_costs
from visor_jax.policy.network import PARAMS, PolicyNetwork
from visor_jax.policy.scores import ScoredSamples, score_batch
from visor_jax.settings import PolicySettings
from visor_jax.sharding.axis_rules import batch_sharding
from visor_jax.tasks.run import Params, Run, Task
from visor_jax.training import policy_stages, run_record, stages
from visor_jax.training.policy_data import sample_iterator, scored_table
from visor_jax.training.policy_objective import BLENDED
from visor_jax.training.policy_step import (
    FROZEN,
    Measure,
    blended_measure,
    make_policy_step,
    summary,
    table_measure,
)
from visor_jax.training.state import TrainState


def prepare(run: Run, optimizer: optax.GradientTransformation) -> Task:
    """Returns the task with the network's scores at hand, if its objective reads them.

    Raises:
      Stopped: if asked to stop meanwhile; the next start goes on from there.
    """
    s = _settings(run)
    with command_line.user_errors():
        if jax.process_count() > 1:
            raise ValueError(
                "A policy trains on one process: start it on one host alone."
            )
        backbone = policy_stages.frozen_backbone(s.init_from, s.model, run.mesh)
    costs = page_costs(s)
    data, measure = _data_and_measure(run, backbone, costs)
    create = functools.partial(
        policy_stages.fresh_policy_state,
        jax.tree.map(_shape, backbone),
        s.policy,
        s.model.decoder.width,
        optimizer,
        seed=s.seed,
    )
    return Task(
        data=data,
        create=create,
        given=lambda _: backbone,
        step=make_policy_step(
            measure,
            optimizer,
            s.objective,
            costs,
            s.loop.steps,
            skip_norm=s.optimizer.skip_norm,
        ),
        frozen=FROZEN,
        summary=functools.partial(summary, names=s.budgets.names),
        metadata={
            "policy": {
                "config": s.policy.to_dict(),
                "objective": dataclasses.asdict(s.objective),
                "costs": dict(zip(s.budgets.names, costs.tolist(), strict=True)),
            }
        },
    )


def page_costs(s: PolicySettings) -> np.ndarray:
    """Returns the budgets' relative costs for a question about a page."""
    prompt = EvaluationSet.make(1).prompts(1)
    return relative_costs(
        s.model,
        s.budgets,
        text_tokens=prompt.tokens.shape[1],
        image_tokens=prompt.image_positions.shape[1],
    )


def _settings(run: Run) -> PolicySettings:
    assert isinstance(run.settings, PolicySettings)
    return run.settings


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _data_and_measure(
    run: Run, backbone: Params, costs: np.ndarray
) -> tuple[stages.TrainingData, Measure]:
    s, network = _settings(run), PolicyNetwork(_settings(run).policy)
    pool = stages.page_pool(
        policy_stages.SPLIT,
        s.data.pages.pool_size,
        seed=s.seed,
        cache=run.cache,
        interruption=run.interruption,
    )
    if s.objective.kind == BLENDED:
        data = policy_stages.single_questions(pool, s.data.pages, s.loop.steps)
        measure = blended_measure(run.model, network, s.budgets, s.objective.score)
        return data, measure
    with run.on_mesh():
        samples = policy_stages.page_scores(
            run.model,
            backbone,
            s.budgets,
            pool,
            s.data.pages,
            s.scores,
            cache=run.cache,
            put=_put(run),
            interruption=run.interruption,
        )
    table = scored_table(samples, s.objective, costs)
    batches = functools.partial(
        sample_iterator, table, batch_size=s.data.batch_size, seed=s.seed
    )
    data = stages.TrainingData(
        batches=batches(steps=s.loop.steps), example=next(batches(steps=1))
    )
    return data, table_measure(network, s.objective.kind)


def _put(run: Run) -> Any:
    return functools.partial(jax.device_put, device=batch_sharding(run.mesh))


def report(run: Run, state: TrainState, seconds: float) -> None:
    """Tries the policy on the test's pages, writes its report and prints its table."""
    s, out = _settings(run), run.workdir / "report"
    evaluation_set = EvaluationSet.make(s.evaluation_pages, cache_dir=run.cache)
    params = dict(state.params)
    policy = params.pop(PARAMS)
    samples, tasks = _test_scores(run, params, evaluation_set)
    apply = jax.jit(PolicyNetwork(s.policy).apply)
    logits = apply({"params": policy}, samples.features)
    table = write_policy_report(
        np.asarray(logits[:, 0]),
        samples,
        tasks,
        s.budgets,
        page_costs(s),
        PolicyFacts(
            label=s.label,
            seed=s.seed,
            checkpoint=str(run.workdir),
            network=s.init_from,
            train_steps=s.loop.steps,
            wall_clock_s=round(seconds, 1),
            git_commit=run_record.git_commit(),
            pages=s.evaluation_pages,
        ),
        adequacy=s.objective.adequacy,
        out=out,
    )
    print(f"{table}\n\ntrained in {seconds:.0f} s; report: {out / 'policy.json'}")


def _test_scores(
    run: Run, backbone: Params, evaluation_set: EvaluationSet
) -> tuple[ScoredSamples, np.ndarray]:
    """Returns the scores of the test's questions, and the task of each."""
    s = _settings(run)
    asked = list(evaluation_set.batches())
    identity = {
        **policy_stages.network_identity(run.model, backbone, s.budgets),
        **evaluation_set.identity(),
    }
    with run.on_mesh():
        samples = policy_stages.cached_scores(
            identity,
            asked,
            lambda each, number: score_batch(
                run.model,
                backbone,
                each.batch,
                s.budgets,
                first_row=number * evaluation_set.batch_size,
            ),
            total=len(asked),
            cache=run.cache,
            interruption=run.interruption,
            description="evaluating",
        )
    task_ids = np.concatenate([each.task_ids for each in asked])
    return samples, task_ids[samples.rows, samples.slots]
