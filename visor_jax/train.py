"""Trains a network: configuration -> objects -> loop -> report.

    python -m visor_jax.train --config=configs/universal.py [--workdir=DIR]

The same command goes on with a run that was stopped. On several hosts it is the same
command on each (see `launch/`), with a workdir that all of them share.

Exit code 2: the configuration or the workdir cannot be used, or the processes of the
run differ. 1: the run cannot go on. 3: not all processes came. The message says why.
"""

from absl import flags

from visor_jax.commands import command_line, config_flag, process_flags


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    config_flag.define_config_flag()
    flags.DEFINE_string(
        "workdir",
        None,
        "Where the run lives, a folder or gs://BUCKET/FOLDER; by default "
        "runs/<label>-<preset>-seed<seed>.",
    )
    process_flags.define_process_flags()


if __name__ == "__main__":
    command_line.begin(define_flags)

import contextlib
import logging
import os
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from visor_jax.checkpoints import layout
from visor_jax.checkpoints.manager import CheckpointManager, SavingError
from visor_jax.commands.start_line import say_kernels, say_start
from visor_jax.data.conversations.conversation_set import DamagedRecordError
from visor_jax.runtime import agreement, processes
from visor_jax.runtime.host_memory import keep_freed_memory
from visor_jax.runtime.interruption import Interruption, Stopped
from visor_jax.runtime.user_error import UserError, as_user_errors, describe
from visor_jax.settings.read import read_settings
from visor_jax.settings.resuming import (
    BEFORE_THEY_CAME,
    describe_changes,
    may_change,
    without_idle_values,
)
from visor_jax.sharding.axis_rules import samples_split
from visor_jax.sharding.batch_rows import abstract_batch, process_rows, put_rows
from visor_jax.sharding.mesh import describe_mesh, make_mesh
from visor_jax.tasks import policy, universal
from visor_jax.tasks.run import Run, Task, run_home
from visor_jax.tasks.trained_parameters import check_groups
from visor_jax.training import initial_state, loop, run_record
from visor_jax.training.metrics import MetricWriter
from visor_jax.training.optimizer import logged_learning_rates, make_optimizer
from visor_jax.training.skipped_steps import SkippedStepsFile, TooManySkippedSteps
from visor_jax.training.state import TrainState
from visor_jax.training.step_programs import StepPrograms
from visor_jax.training.warm_start import bring_processing_files

_logger = logging.getLogger("visor_jax.train")

# What a task needs before its first step, and what it does with the trained network.
_TASKS = {"universal": universal, "policy": policy}


def train(run: Run) -> tuple[TrainState, int, float]:
    """Returns the last state, the steps done and the seconds of all starts together.

    Raises:
      UserError: if what the run begins with or reads cannot be used.
      Stopped: if asked to stop before the first step.
    """
    began, s = time.monotonic(), run.settings
    optimizer = make_optimizer(s.optimizer, s.loop.steps)
    task = _TASKS[s.task].prepare(run, optimizer)
    with (
        run.on_mesh(),
        contextlib.closing(task.data.batches),
        MetricWriter(run.workdir, enabled=jax.process_index() == 0) as writer,
        CheckpointManager(
            run.home,
            save_every=s.loop.checkpoint_every,
            keep=s.loop.keep_checkpoints,
        ) as checkpoints,
    ):
        files = loop.RunFiles(
            writer=writer,
            checkpoints=checkpoints,
            skipped=SkippedStepsFile(
                run.workdir,
                batch_size=s.data.batch_size,
                limit=s.loop.max_skipped_steps,
                enabled=jax.process_index() == 0,
            ),
            metadata={**run.metadata(), **task.metadata},
            began=began,
            upload=run.upload,
        )
        state = start_or_resume(run, task, files)
        stacks = task.stacks(state.params)
        state, files.stored = stacks.stack(state), stacks.for_files
        batch = abstract_batch(run.mesh, task.data.example)
        state, done = loop.run(
            state,
            task.data.batches,
            step_programs(task, state, batch, writer),
            put=put_rows(run.mesh, s.data.batch_size),
            settings=s.loop,
            summary=task.summary,
            learning_rates=logged_learning_rates(s.optimizer, s.loop.steps),
            files=files,
            interruption=run.interruption,
        )
        state = stacks.unstack(state)
    return state, done, files.elapsed()


def start_or_resume(run: Run, task: Task, files: loop.RunFiles) -> TrainState:
    """Returns the state of the newest checkpoint, or a new one.

    Raises:
      UserError: if the checkpoint is of another run, or `init_from` does not fit.
    """
    with as_user_errors():
        abstract = initial_state.abstract_state(task.create, task.frozen, run.mesh)
        state = loop.resume(abstract, task.data.batches, files)
        given = task.given(abstract) if state is None else {}
    if state is not None:
        return state
    return initial_state.first_state(task.create, abstract, given)


def step_programs(
    task: Task, state: TrainState, batch: Any, writer: MetricWriter
) -> StepPrograms:
    """Returns the training step, compiled for this state and batch; logs the time."""
    programs = StepPrograms(
        task.step,
        out_shardings=initial_state.shardings_of(state),
        record=lambda step, seconds: writer.write_timing(step, {"compile_s": seconds}),
    )
    programs.prepare(state, batch)
    say_kernels()
    return programs


def prepare_together(
    config: ConfigDict,
    workdir: str | None,
    interruption: Interruption,
    held: contextlib.ExitStack,
) -> Run:
    """Returns what `prepare` does, once all processes are found to agree.

    Args:
      held: until its end the first process owns the workdir, for all of them.

    Raises:
      ValueError: on all processes, if one cannot prepare or prepares something else, or
        the workdir is another run's at work.
    """
    run, problem = None, None
    try:
        run = prepare(config, workdir, interruption)
        if jax.process_index() == 0:
            remedy = "Wait for it, stop it, or give another --workdir."
            held.enter_context(run.owned(remedy))
    except (ValueError, OSError, UserError) as error:
        problem = error
    if jax.process_count() > 1:
        # The first exchange between CPUs waits half a minute for the last to come.
        processes.wait_for_all("the comparison")
        agreement.check_agreement(
            {
                **run_record.shared_facts(config.to_dict()),
                "workdir": str(workdir),
                "data": "none" if run is None else run.data_digest(),
                "error": "none" if problem is None else describe(problem),
            }
        )
    if problem is not None:
        raise problem
    return run


def prepare(
    config: ConfigDict,
    workdir: str | os.PathLike[str] | None,
    interruption: Interruption,
) -> Run:
    """Returns the run that the configuration describes.

    Args:
      workdir: where the run lives; None for runs/<label>-<preset>-seed<seed>.
      interruption: how the run learns that it is to stop.

    Raises:
      ValueError: for whatever the user has to mend, before any work.
    """
    chosen = read_settings(config)
    name = f"{chosen.label}-{chosen.preset}-seed{chosen.seed}".replace(":", "-")
    home = run_home(workdir or f"runs/{name}")
    if (home / layout.CHECKPOINTS / "0").exists():
        raise ValueError(
            f"{home} holds imported weights, not a run: begin with them in another "
            f"--workdir by --config.init_from={home}."
        )
    if chosen.data.cache is not None:
        layout.check_local(chosen.data.cache, "--config.data.cache")
    if chosen.init_from is not None:
        layout.find_steps(chosen.init_from)
    changes = run_record.check_same_run(
        home,
        config.to_dict(),
        may_change=may_change,
        earlier=BEFORE_THEY_CAME,
        alike=without_idle_values,
    )
    processes.check_started()
    processes.check_platform(chosen.platform)
    check_groups(chosen)
    mesh = make_mesh(chosen.mesh)
    parts, passes = samples_split(mesh), chosen.optimizer.accumulate
    if chosen.data.batch_size % (parts * passes):
        raise ValueError(
            f"data.batch_size={chosen.data.batch_size} does not split over the {parts} "
            "devices of the mesh axes data and fsdp, in optimizer.accumulate="
            f"{passes} parts."
        )
    process_rows(mesh, chosen.data.batch_size)
    if jax.process_index() == 0 and (line := describe_changes(changes)):
        _logger.info("%s: %s", home, line)
    return Run.at(home, settings=chosen, mesh=mesh, interruption=interruption)


def main(arguments: list[str]) -> None:
    """Trains what the flags describe. Exits with 1 if the run cannot go on."""
    del arguments
    options = flags.FLAGS
    keep_freed_memory()
    with command_line.user_errors():
        process_flags.start_processes(options)
    with contextlib.ExitStack() as held:
        _train(options, held)
    # Whoever leaves early would be waited for, and not for long.
    processes.wait_for_all("the end")


def _train(options: Any, held: contextlib.ExitStack) -> None:
    """Trains and reports. held: lets go of the workdir at the very end."""
    with Interruption() as interruption:
        with command_line.user_errors():
            config = config_flag.config_of(options)
            run = prepare_together(config, options.workdir, interruption, held)
            if jax.process_index() == 0:
                run_record.write_run_record(run.workdir, config.to_dict())
                bring_processing_files(
                    run.workdir,
                    init_from=run.settings.init_from,
                    processor=run.settings.data.processor,
                )
                run.upload()
        say_start(run.home, describe_mesh(run.mesh), run.settings.model.attention)
        try:
            state, done, seconds = train(run)
        except Stopped:
            message = "stopped before the first step; the same command starts again"
            print(message)
            # Others may wait for what this one was about to do.
            command_line.leave_together(message)
            return
        except (TooManySkippedSteps, SavingError, DamagedRecordError) as error:
            command_line.fail(str(error), command_line.FAILED)
    steps = run.settings.loop.steps
    if done == steps:
        _TASKS[run.settings.task].report(run, state, seconds)
    elif jax.process_index() == 0:
        print(
            f"{interruption.signal_name}: saved at step {done} of {steps}; "
            "the same command goes on from there"
        )


if __name__ == "__main__":
    command_line.run(main)
