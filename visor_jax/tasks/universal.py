"""The task "universal": one network for every budget, or for one."""

import functools
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import optax

from visor_jax.data.pages.forms import forms_of, vocabulary_of
from visor_jax.data.pages.processor import page_processor
from visor_jax.data.pages.tokenizer import page_tokenizer
from visor_jax.data.settings import CONVERSATIONS, PAGES
from visor_jax.evals.pages.tile_benchmark import drawn_benchmark
from visor_jax.evals.report.report import ReportFacts, report_run
from visor_jax.evals.report.rows import RunFacts
from visor_jax.inference.loading.network import Network
from visor_jax.runtime.agreement import whole_arrays
from visor_jax.runtime.machine import git_commit, machine_description
from visor_jax.runtime.progress import Progress
from visor_jax.runtime.user_error import as_user_errors
from visor_jax.settings.run_settings import UniversalSettings
from visor_jax.tasks import tower_data, training_data
from visor_jax.tasks.run import REPORT, Params, Run, Task
from visor_jax.tasks.training_data import open_conversations
from visor_jax.token_reduction.trained import own_reducer
from visor_jax.training import initial_state, run_record
from visor_jax.training.layer_stacks import LayerStacks
from visor_jax.training.objectives.universal_step import make_universal_step, summary
from visor_jax.training.state import TrainState
from visor_jax.training.warm_start import warm_start


def prepare(run: Run, optimizer: optax.GradientTransformation) -> Task:
    """Returns the task with its data at hand and its tower trained.

    Raises:
      UserError: if the data or the processor cannot be used.
      Stopped: if asked to stop meanwhile.
    """
    s = _settings(run)
    data, tower = _data_and_tower(run)
    create = functools.partial(
        initial_state.fresh_state,
        run.model,
        optimizer,
        s.optimizer.frozen,
        data.example,
        seed=s.seed,
        num_budgets=len(s.budgets),
    )

    def given(abstract: TrainState) -> Params:
        if s.init_from is not None:
            return warm_start(
                s.init_from, s.model, abstract.params, adapter_init=s.adapter_init
            )
        return {} if tower is None else {"vision_tower": tower}

    return Task(
        data=data,
        create=create,
        given=given,
        step=make_universal_step(
            run.model,
            optimizer,
            s.schedule,
            s.objective,
            s.optimizer.frozen,
            s.optimizer.accumulate,
            skip_norm=s.optimizer.skip_norm,
        ),
        frozen=s.optimizer.frozen,
        summary=functools.partial(summary, names=s.budgets.names),
        stacks=functools.partial(LayerStacks.of, run.model, s.optimizer),
    )


def _settings(run: Run) -> UniversalSettings:
    assert isinstance(run.settings, UniversalSettings)
    return run.settings


def _data_and_tower(run: Run) -> tuple[training_data.TrainingData, Any]:
    """Returns the run's batches, and the pretrained tower if there is to be one."""
    s = _settings(run)
    kept = {"cache": run.cache, "interruption": run.interruption}
    trains_tower = s.tower is not None and s.tower.steps
    if s.data.kind == CONVERSATIONS:
        data, tower = _conversations(run), None
        if trains_tower:
            with as_user_errors():
                asked = tower_data.tower_on_answers(s, **kept)
            tower = _tower(run, asked)
        return data, tower
    pages = s.data.pages
    pools = [
        training_data.page_pool(
            "train", pages.pool_size, recipe=form.recipe, seed=s.seed, **kept
        )
        for form in forms_of(pages.kind)
    ]
    tower = None
    if trains_tower:
        what = pools[0], s.model.vision, s.tower
        tower = _tower(run, tower_data.tower_on_pages(*what, seed=s.seed))
    return training_data.page_data(pools, pages, s.loop.steps, run.rows), tower


def _tower(run: Run, data: tower_data.TowerData) -> Params:
    s = _settings(run)
    kept = {"cache": run.cache, "interruption": run.interruption, "seed": s.seed}
    return tower_data.pretrained_tower(data, s.model.vision, s.tower, **kept)


def _conversations(run: Run) -> training_data.TrainingData:
    """Returns the batches of converted data; leaves a record of them in the workdir.

    Raises:
      UserError: if the data cannot be used.
    """
    with as_user_errors():
        data = open_conversations(
            run.settings, cache=run.cache, interruption=run.interruption
        )
        example = data.example()
    if jax.process_index() == 0:
        run_record.write_data_record(run.workdir, data.record())
    return training_data.TrainingData(
        batches=data.batches(rows=run.rows), example=example
    )


def report(run: Run, state: TrainState, seconds: float) -> None:
    """Evaluates the trained network, writes its report and prints its table.

    All processes call it and the first one does it.
    """
    s = run.settings
    if s.data.kind != PAGES:
        if jax.process_index() == 0:
            print(f"trained {s.loop.steps} steps; checkpoints are in {run.home}")
        return
    params = whole_arrays(state.params)
    if jax.process_index() == 0:
        with run.report_folder() as out:
            _report(run, params, seconds, out)


def _report(run: Run, params: Params, seconds: float, out: Path) -> None:
    s = run.settings
    kind = s.data.pages.kind
    benchmark = drawn_benchmark(kind, s.evaluation_pages, cache_dir=run.cache)
    network = Network(
        config=s.model,
        params=params,
        budgets=s.budgets,
        processor=page_processor(page_tokenizer(vocabulary_of(kind)), kind),
        metadata={},
        reducer=own_reducer(s.model),
    )
    total = len(benchmark) * len(s.budgets)
    with Progress(total, description="evaluating", unit="answers") as bar:
        table = report_run(
            network,
            label=s.label,
            facts=RunFacts(
                preset=s.preset,
                seed=s.seed,
                train_steps=s.loop.steps,
                wall_clock_s=round(seconds, 1),
                checkpoint=str(run.home),
                git_commit=git_commit(),
            ),
            made=ReportFacts(
                git_commit=git_commit(),
                machine=machine_description(),
                command=f"python -m visor_jax.train {shlex.join(sys.argv[1:])}",
            ),
            benchmark=benchmark,
            out=out,
            progress=lambda done, _: bar.update(done),
        )
    place = run.home / REPORT / "report.md"
    print(f"{table}\n\ntrained in {seconds:.0f} s; report: {place}")
