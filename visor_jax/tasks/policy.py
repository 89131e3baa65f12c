"""The task "policy": a frozen network learns which budget a sample needs."""

import dataclasses
import functools
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from visor_jax.batch import Batch
from visor_jax.checkpoints import layout
from visor_jax.data.pages.questions import TASK_NAMES
from visor_jax.data.settings import PAGES
from visor_jax.evals.pages.benchmark import PageBenchmark
from visor_jax.evals.pages.policy_report import PolicyFacts, write_policy_report
from visor_jax.policy.network import PARAMS, policy_logits
from visor_jax.policy.scores import ScoredSamples
from visor_jax.runtime.agreement import whole_arrays
from visor_jax.runtime.machine import git_commit
from visor_jax.runtime.processes import first_process_first
from visor_jax.runtime.user_error import as_user_errors
from visor_jax.settings.run_settings import PolicySettings
from visor_jax.sharding.axis_rules import samples_split
from visor_jax.sharding.batch_rows import put_whole
from visor_jax.tasks import policy_data, training_data
from visor_jax.tasks.policy_data import PolicyQuestions
from visor_jax.tasks.run import REPORT, Params, Run, Task
from visor_jax.training.objectives.policy_step import (
    FROZEN,
    Measure,
    blended_measure,
    make_policy_step,
    summary,
    table_measure,
)
from visor_jax.training.objectives.policy_table import sample_iterator, scored_table
from visor_jax.training.state import TrainState


def prepare(run: Run, optimizer: optax.GradientTransformation) -> Task:
    """Returns the task with the network's scores at hand, if its objective reads them.

    Raises:
      UserError: if the network, the data or the folders cannot be used.
      Stopped: if asked to stop meanwhile; the next start goes on from there.
    """
    s = _settings(run)
    with as_user_errors():
        _check_split(s, run.mesh)
        _check_writable(_cache_folder(run), "data.cache")
        _check_writable(_score_folder(run), "scores.cache")
        backbone = policy_data.frozen_backbone(s.init_from, run.mesh)
    questions = policy_data.policy_questions(run, _cache_folder(run))
    data, measure = _data_and_measure(run, backbone, questions)
    create = functools.partial(
        policy_data.fresh_policy_state,
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
            questions.costs,
            s.loop.steps,
            skip_norm=s.optimizer.skip_norm,
        ),
        frozen=FROZEN,
        summary=functools.partial(summary, names=s.budgets.names),
        metadata={
            "policy": {
                "config": s.policy.to_dict(),
                "objective": dataclasses.asdict(s.objective),
                "costs": dict(
                    zip(s.budgets.names, questions.costs.tolist(), strict=True)
                ),
            }
        },
    )


def _settings(run: Run) -> PolicySettings:
    assert isinstance(run.settings, PolicySettings)
    return run.settings


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _cache_folder(run: Run) -> Path:
    """Returns where pages and lengths are kept: as asked, or in the network's workdir.

    There they serve every policy of the network, and its own evaluation. A network that
    lies elsewhere (a single step, a bucket) leaves them to the run's workdir.
    """
    s = _settings(run)
    steps = layout.find_steps(s.init_from)[0].parent
    in_workdir = steps.name == layout.CHECKPOINTS and not layout.is_remote(steps)
    if s.data.cache or not in_workdir:
        return run.cache
    return Path(steps.parent) / "cache"


def _score_folder(run: Run) -> Path:
    """Returns where scores are kept: as asked, or with the pages."""
    cache = _settings(run).scores.cache
    return Path(cache) if cache else _cache_folder(run)


def _check_split(s: PolicySettings, mesh: jax.sharding.Mesh) -> None:
    parts = samples_split(mesh)
    if s.scores.batch_size % parts:
        raise ValueError(
            f"scores.batch_size={s.scores.batch_size} does not split over the {parts} "
            "devices of the mesh axes data and fsdp."
        )


def _check_writable(folder: Path, setting: str) -> None:
    layout.check_local(folder, f"--config.{setting}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise ValueError(
            f"{folder} cannot be written to: give another place, "
            f"--config.{setting}=DIRECTORY."
        )


def _data_and_measure(
    run: Run, backbone: Params, questions: PolicyQuestions
) -> tuple[training_data.TrainingData, Measure]:
    s = _settings(run)
    if questions.blended is not None:
        measure = blended_measure(run.model, s.policy, s.budgets, s.objective.score)
        return questions.blended, measure
    samples = _scores(
        run,
        backbone,
        questions.rows,
        total=s.scores.batches,
        description="scoring",
    )
    table = scored_table(samples, s.objective, questions.costs)
    batches = functools.partial(
        sample_iterator, table, batch_size=s.data.batch_size, seed=s.seed
    )
    data = training_data.TrainingData(
        batches=batches(steps=s.loop.steps, rows=run.rows),
        example=next(batches(steps=1)),
    )
    return data, table_measure(s.policy, s.objective.kind)


def _scores(
    run: Run,
    backbone: Params,
    batches: Iterable[Batch],
    *,
    total: int,
    description: str,
) -> ScoredSamples:
    """Returns the scores of all batches at every budget, computed or from the cache."""
    with run.on_mesh():
        return policy_data.cached_scores(
            run.model,
            backbone,
            batches,
            _settings(run).budgets,
            total=total,
            cache=_score_folder(run),
            put=put_whole(run.mesh),
            interruption=run.interruption,
            description=description,
        )


def report(run: Run, state: TrainState, seconds: float) -> None:
    """Tries the policy on the test's pages, writes its report and prints its table.

    All processes call it; the first one writes.
    """
    s = _settings(run)
    if s.data.kind != PAGES:
        if jax.process_index() == 0:
            print(f"trained {s.loop.steps} steps; checkpoints are in {run.home}")
        return
    params = dict(state.params)
    policy = whole_arrays(params.pop(PARAMS))
    with first_process_first("drawing test pages"):
        benchmark = _benchmark(run)
    samples, tasks = _test_scores(run, params, benchmark)
    if jax.process_index() == 0:
        _write_report(run, policy, samples, tasks, seconds)


def _write_report(
    run: Run,
    policy: Params,
    samples: ScoredSamples,
    tasks: np.ndarray,
    seconds: float,
) -> None:
    s = _settings(run)
    logits_of = jax.jit(functools.partial(policy_logits, s.policy))
    logits = logits_of(policy, samples.features)
    facts = PolicyFacts(
        label=s.label,
        seed=s.seed,
        checkpoint=str(run.home),
        network=s.init_from,
        train_steps=s.loop.steps,
        wall_clock_s=round(seconds, 1),
        git_commit=git_commit(),
        pages=s.evaluation_pages,
    )
    with run.report_folder() as out:
        table = write_policy_report(
            np.asarray(logits[:, 0]),
            samples,
            tasks,
            s.budgets,
            policy_data.page_costs(s),
            facts,
            adequacy=s.objective.adequacy,
            out=out,
        )
    place = run.home / REPORT / "policy.json"
    print(f"{table}\n\ntrained in {seconds:.0f} s; report: {place}")


def _benchmark(run: Run) -> PageBenchmark:
    """Returns the test's pages in batches that split over the devices."""
    pages, parts = _settings(run).evaluation_pages, samples_split(run.mesh)
    found = PageBenchmark.make(pages, cache_dir=_cache_folder(run))
    rows = math.ceil(found.batch_size / parts) * parts
    return dataclasses.replace(found, batch_size=rows)


def _test_scores(
    run: Run, backbone: Params, benchmark: PageBenchmark
) -> tuple[ScoredSamples, np.ndarray]:
    """Returns the scores of the test's questions, and the task of each."""
    asked = list(benchmark.packed())
    samples = _scores(
        run,
        backbone,
        [each.batch for each in asked],
        total=len(asked),
        description="evaluating",
    )
    # Samples stand in the order of examples: row by row, segments ascending.
    examples = (example for each in asked for example in each.examples)
    return samples, np.array([TASK_NAMES.index(each.task) for each in examples])
