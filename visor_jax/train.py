"""Trains a network: configuration -> objects -> loop -> report.

    python -m visor_jax.train --config=configs/universal.py [--workdir=DIR]

The same command goes on with a run that was stopped. Exit code 2: the configuration or
the workdir cannot be used; the message says why.
"""

import dataclasses
import functools
import logging
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import optax
from absl import flags
from ml_collections import config_flags

from visor_jax import command_line, settings
from visor_jax.batch import Batch
from visor_jax.checkpoints import layout
from visor_jax.checkpoints.manager import CheckpointManager
from visor_jax.checkpoints.restore import read_metadata
from visor_jax.evals.evaluation_set import EvaluationSet
from visor_jax.evals.report import ReportFacts, report_run
from visor_jax.evals.rows import RunFacts
from visor_jax.models.vlm import VLM
from visor_jax.settings import RunSettings
from visor_jax.sharding.axis_rules import batch_sharding, logical_rules, samples_split
from visor_jax.sharding.mesh import describe_mesh, make_mesh
from visor_jax.training import loop, run_record, stages
from visor_jax.training.compilation import logged_compile
from visor_jax.training.host_memory import keep_freed_memory
from visor_jax.training.interruption import Interruption
from visor_jax.training.metrics import MetricWriter
from visor_jax.training.optimizer import learning_rate_schedule, make_optimizer
from visor_jax.training.progress import Progress
from visor_jax.training.state import TrainState
from visor_jax.training.universal_step import make_universal_step
from visor_jax.training.warm_start import bring_processing_files, warm_start

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Configuration file, e.g. configs/universal.py[:preset].",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run lives; by default runs/<label>-<preset>-seed<seed>."
)

_logger = logging.getLogger("visor_jax.train")

# Keys that do not change what a run computes.
_MAY_DIFFER = ("data.cache", "loop.checkpoint_every", "loop.keep_checkpoints")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training run: its settings and what is made of them before any work."""

    settings: RunSettings
    workdir: Path
    mesh: jax.sharding.Mesh
    interruption: Interruption

    @functools.cached_property
    def model(self) -> VLM:
        return VLM(self.settings.model)

    @functools.cached_property
    def cache(self) -> Path:
        return Path(self.settings.data.cache or self.workdir / "cache")

    @functools.cached_property
    def source(self) -> dict[str, Any] | None:
        """What the checkpoint that the run began with was imported from."""
        began_with = self.settings.init_from
        return read_metadata(began_with).get("source") if began_with else None

    def metadata(self) -> dict[str, Any]:
        """Returns what every checkpoint says of the run (see `evaluate` and `load`)."""
        s = self.settings
        return {
            "task": s.task,
            "label": s.label,
            "preset": s.preset,
            "seed": s.seed,
            "model": s.model.to_dict(),
            "budgets": list(s.budgets.names),
            "train_steps": s.loop.steps,
            "git_commit": run_record.git_commit(),
            "data": {"kind": s.data.kind, "seed": s.seed},
            "init_from": s.init_from,
            "source": self.source,
        }


def train(run: Run) -> tuple[TrainState, int, float]:
    """Returns the last state, the steps done and the seconds of all starts together."""
    began, s = time.monotonic(), run.settings
    data, tower = data_and_tower(run)
    optimizer = make_optimizer(s.optimizer, s.loop.steps)
    create = functools.partial(
        stages.fresh_state,
        run.model,
        optimizer,
        s.optimizer.frozen,
        data.example,
        seed=s.seed,
        num_budgets=len(s.budgets),
    )
    with (
        jax.set_mesh(run.mesh),
        nn.logical_axis_rules(logical_rules()),
        MetricWriter(run.workdir, enabled=jax.process_index() == 0) as writer,
        CheckpointManager(
            run.workdir,
            save_every=s.loop.checkpoint_every,
            keep=s.loop.keep_checkpoints,
        ) as checkpoints,
    ):
        with command_line.user_errors():
            abstract = stages.abstract_state(
                create, optimizer, s.optimizer.frozen, run.mesh
            )
            files = loop.RunFiles(
                writer=writer,
                checkpoints=checkpoints,
                metadata=run.metadata(),
                began=began,
            )
            state = loop.resume(abstract, data.batches, files)
            given = {} if tower is None else {"vision_tower": tower}
            if state is None and s.init_from is not None:
                given = warm_start(s.init_from, s.model, abstract.params)
        if state is None:
            state = stages.first_state(create, abstract, given)
        put = functools.partial(jax.device_put, device=batch_sharding(run.mesh))
        step = compiled_step(run, optimizer, state, put(data.example), writer)
        state, done = loop.run(
            state,
            data.batches,
            step,
            put=put,
            settings=s.loop,
            schedule=s.schedule,
            learning_rate=learning_rate_schedule(s.optimizer, s.loop.steps),
            files=files,
            interruption=run.interruption,
        )
    return state, done, files.elapsed()


def compiled_step(
    run: Run,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    writer: MetricWriter,
) -> Callable[[TrainState, Batch], TrainState]:
    """Returns the training step compiled for this state and batch; logs the time."""
    s = run.settings
    step = make_universal_step(
        run.model, optimizer, s.schedule, s.objective, s.optimizer.frozen
    )
    return logged_compile(
        "the training step",
        jax.jit(step, donate_argnums=0, out_shardings=stages.shardings_of(state)),
        state,
        batch,
        record=lambda _, seconds: writer.write_timing(
            int(state.step), {"compile_s": seconds}
        ),
    )


def data_and_tower(run: Run) -> tuple[stages.TrainingData, Any]:
    """Returns the run's batches, and the pretrained tower if there is to be one."""
    s = run.settings
    if s.data.kind == "prepared":
        with command_line.user_errors():
            data = stages.prepared_data(
                s.data.path,
                batch_size=s.data.batch_size,
                steps=s.loop.steps,
                seed=s.seed,
            )
        return data, None
    kept = {"seed": s.seed, "cache": run.cache, "interruption": run.interruption}
    pool = stages.page_pool("train", s.data.pages.pool_size, **kept)
    tower = None
    if s.tower is not None and s.tower.steps:
        tower = stages.pretrained_tower(pool, s.model.vision, s.tower, **kept)
    return stages.page_data(pool, s.data.pages, s.loop.steps), tower


def report(run: Run, state: TrainState, seconds: float) -> None:
    """Evaluates the trained network, writes its report and prints its table."""
    s, out = run.settings, run.workdir / "report"
    if s.data.kind != "pages":
        print(f"trained {s.loop.steps} steps; checkpoints are in {run.workdir}")
        return
    evaluation_set = EvaluationSet.make(s.evaluation_pages, cache_dir=run.cache)
    passes = evaluation_set.num_batches * len(s.budgets)
    with Progress(passes, description="evaluating", unit="batches") as bar:
        table = report_run(
            run.model,
            jax.device_get(state.params),
            s.budgets,
            label=s.label,
            facts=RunFacts(
                preset=s.preset,
                seed=s.seed,
                train_steps=s.loop.steps,
                wall_clock_s=round(seconds, 1),
                checkpoint=str(run.workdir),
                git_commit=run_record.git_commit(),
            ),
            made=ReportFacts(
                git_commit=run_record.git_commit(),
                machine=run_record.machine_description(),
                command=f"python -m visor_jax.train {shlex.join(sys.argv[1:])}",
            ),
            evaluation_set=evaluation_set,
            out=out,
            progress=lambda done, _: bar.update(done),
        )
    print(f"{table}\n\ntrained in {seconds:.0f} s; report: {out / 'report.md'}")


def prepare(config: Any, interruption: Interruption) -> Run:
    """Returns the run that the flags ask for.

    Raises:
      ValueError: for whatever the user has to mend, before any work.
    """
    if config is None:
        raise ValueError("--config=FILE is needed, e.g. configs/universal.py.")
    chosen = settings.read(config)
    name = f"{chosen.label}-{chosen.preset}-seed{chosen.seed}".replace(":", "-")
    if _WORKDIR.value:
        layout.check_local(_WORKDIR.value, "--workdir")
    workdir = Path(_WORKDIR.value or f"runs/{name}")
    if (workdir / layout.CHECKPOINTS / "0").exists():
        raise ValueError(
            f"{workdir} holds imported weights, not a run: begin with them in another "
            f"--workdir by --config.init_from={workdir}."
        )
    if chosen.init_from is not None:
        layout.find_steps(chosen.init_from)
    run_record.check_same_run(workdir, config.to_dict(), may_differ=_MAY_DIFFER)
    mesh = make_mesh(chosen.mesh)
    parts = samples_split(mesh)
    if chosen.data.batch_size % parts:
        raise ValueError(
            f"data.batch_size={chosen.data.batch_size} does not split over the {parts} "
            "devices of the mesh axes data and fsdp."
        )
    return Run(settings=chosen, workdir=workdir, mesh=mesh, interruption=interruption)


def main(_: list[str]) -> None:
    keep_freed_memory()
    config = _CONFIG.value
    with Interruption() as interruption:
        with command_line.user_errors():
            run = prepare(config, interruption)
            if jax.process_index() == 0:
                run_record.write_run_record(run.workdir, config.to_dict())
                data = run.settings.data
                bring_processing_files(
                    run.workdir,
                    init_from=run.settings.init_from,
                    data=data.path if data.kind == "prepared" else None,
                )
        _logger.info("%s: %s", run.workdir, describe_mesh(run.mesh))
        try:
            state, done, seconds = train(run)
        except stages.Stopped:
            print("stopped before the first step; the same command starts again")
            return
    steps = run.settings.loop.steps
    if done < steps:
        print(
            f"{interruption.signal_name}: saved at step {done} of {steps}; "
            "the same command goes on from there"
        )
        return
    report(run, state, seconds)


if __name__ == "__main__":
    command_line.run(main)
