"""Trains a network: configuration -> objects -> loop -> report.

    python -m visor_jax.train --config=configs/universal.py [--workdir=DIR]

The same command goes on with a run that was stopped. Exit code 2: the configuration or
the workdir cannot be used; the message says why.
"""

import dataclasses
import functools
import os
import sys
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from absl import flags
from ml_collections import config_flags

from visor_jax import command_line, settings
from visor_jax.batch import Batch
from visor_jax.checkpoints.manager import CheckpointManager
from visor_jax.data.pages.pool import PagePool, make_pool
from visor_jax.data.pipeline import train_iterator
from visor_jax.data.tower_pipeline import tower_batches
from visor_jax.models.vlm import VLM
from visor_jax.settings import RunSettings
from visor_jax.sharding.axis_rules import batch_sharding, logical_rules, samples_split
from visor_jax.sharding.mesh import describe_mesh, make_mesh
from visor_jax.training import loop, run_record
from visor_jax.training.compilation import logged_compile
from visor_jax.training.interruption import Interruption
from visor_jax.training.metrics import MetricWriter
from visor_jax.training.optimizer import learning_rate_schedule, make_optimizer
from visor_jax.training.progress import Progress
from visor_jax.training.state import TrainState, state_shardings
from visor_jax.training.tower_stage import cached_tower, pretrain_tower
from visor_jax.training.universal_step import make_universal_step

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Configuration file, e.g. configs/universal.py[:preset].",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run lives; by default runs/<label>-<preset>-seed<seed>."
)

# Keys that do not change what a run computes.
_MAY_DIFFER = ("data.cache", "loop.checkpoint_every", "loop.keep_checkpoints")


class Stopped(Exception):
    """Asked to stop before there was anything to save."""


@dataclasses.dataclass
class Run:
    """One training run: its settings and the objects made from them."""

    settings: RunSettings
    config: dict[str, Any]
    workdir: Path
    interruption: Interruption

    def __post_init__(self) -> None:
        s = self.settings
        self.mesh = make_mesh(s.mesh)
        self.model = VLM(s.model)
        self.optimizer = make_optimizer(s.optimizer, s.loop.steps)
        batch_size, parts = s.data.pages.batch_size, samples_split(self.mesh)
        if batch_size % parts:
            raise ValueError(
                f"data.pages.batch_size={batch_size} does not split over the {parts} "
                "devices of the mesh axes data and fsdp."
            )
        self.cache = Path(s.data.cache) if s.data.cache else self.workdir / "cache"

    def pool(self, split: str, size: int) -> PagePool:
        """Returns drawn pages of a split, from the cache if they are there."""
        with Progress(size, description=f"drawing {split} pages", unit="pages") as bar:
            return make_pool(
                split,
                size,
                seed=self.settings.seed,
                processes=min(2, os.cpu_count() or 1),
                cache_dir=self.cache,
                progress=lambda done, total: self._tick(bar, done),
            )

    def tower(self, pool: PagePool) -> Any:
        """Returns the pretrained tower's parameters, if possible from the cache."""
        s = self.settings

        def train() -> Any:
            batches = tower_batches(
                pool,
                batch_size=s.tower.batch_size,
                steps=s.tower.steps,
                seed=s.seed,
            )
            with Progress(s.tower.steps, description="tower step") as bar:
                return pretrain_tower(
                    s.model.vision,
                    s.tower,
                    batches,
                    seed=s.seed,
                    progress=lambda done, loss: self._tick(bar, done, loss=loss),
                )

        data_key = {"pool_size": len(pool), "seed": s.seed}
        return cached_tower(
            self.cache, s.model.vision, s.tower, data_key, s.seed, train
        )

    def abstract_state(self, batch: Batch) -> TrainState:
        """Returns shapes, dtypes and shardings of the state, allocating nothing."""
        abstract = jax.eval_shape(self.fresh_state, batch)
        shardings = state_shardings(
            abstract, self.optimizer, self.settings.optimizer.frozen, self.mesh
        )
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            abstract,
            shardings,
        )

    def fresh_state(self, batch: Batch) -> TrainState:
        """Returns the state before the first step, a pure function of the seed."""
        s = self.settings
        gates = (True,) * len(s.model.plan.self_layers)
        init = functools.partial(self.model.init, reading=bool(s.model.reading_layers))
        params = init(jax.random.key(s.seed), batch, gates)["params"]
        return TrainState.create(
            params,
            self.optimizer,
            s.optimizer.frozen,
            seed=s.seed,
            num_budgets=len(s.budgets),
        )

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
            "data": {"kind": s.data.kind, "seed": s.seed},
        }

    def _tick(self, bar: Progress, done: int, **values: float) -> None:
        if self.interruption.requested:
            raise Stopped
        bar.update(done, **values)


def train(run: Run) -> tuple[TrainState, int, float]:
    """Returns the final state, the steps done and the seconds that it took in all."""
    s, started = run.settings, time.monotonic()
    pool = run.pool("train", s.data.pages.pool_size)
    pages = dataclasses.replace(s.data.pages, pool_size=len(pool))
    batches = train_iterator(pool, pages, steps=s.loop.steps)
    sharding = batch_sharding(run.mesh)
    example = next(train_iterator(pool, pages, steps=1, num_threads=0))
    abstract = run.abstract_state(example)
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
        state, elapsed = _start(run, abstract, pool, batches, checkpoints, writer)
        put = functools.partial(jax.device_put, device=sharding)
        step = logged_compile(
            "the training step",
            jax.jit(
                make_universal_step(
                    run.model,
                    run.optimizer,
                    s.schedule,
                    s.objective,
                    s.optimizer.frozen,
                ),
                donate_argnums=0,
                out_shardings=jax.tree.map(lambda x: x.sharding, abstract),
            ),
            state,
            put(example),
            record=lambda name, seconds: writer.write_timing(
                int(state.step), {"compile_s": seconds}
            ),
        )
        elapsed += time.monotonic() - started
        files = loop.RunFiles(
            writer=writer,
            checkpoints=checkpoints,
            metadata=run.metadata(),
            elapsed_before=elapsed,
        )
        began = time.monotonic()
        state, done = loop.run(
            state,
            batches,
            step,
            put=put,
            settings=s.loop,
            schedule=s.schedule,
            learning_rate=learning_rate_schedule(s.optimizer, s.loop.steps),
            files=files,
            interruption=run.interruption,
        )
    return state, done, elapsed + time.monotonic() - began


def _start(
    run: Run,
    abstract: TrainState,
    pool: PagePool,
    batches: Any,
    checkpoints: CheckpointManager,
    writer: MetricWriter,
) -> tuple[TrainState, float]:
    """Returns the state to begin with and the seconds spent before, if resumed."""
    if checkpoints.latest_step() is not None:
        params, rest, metadata = checkpoints.restore_training(
            abstract.params, abstract.all_but_params(), batches
        )
        state = TrainState(params=params, **rest)
        writer.truncate_to(metadata["metrics_offset"], step=metadata["step"])
        print(f"going on from step {metadata['step']}", file=sys.stderr)
        return state, metadata["wall_clock_s"]
    writer.truncate_to(0, step=0)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    example = next(
        train_iterator(pool, run.settings.data.pages, steps=1, num_threads=0)
    )
    state = jax.jit(run.fresh_state, out_shardings=shardings)(example)
    if run.settings.tower is not None and run.settings.tower.steps:
        tower = jax.device_put(run.tower(pool), shardings.params["vision_tower"])
        state = state.replace(params={**state.params, "vision_tower": tower})
    return state, 0.0


def main(_: list[str]) -> None:
    config = _CONFIG.value
    with command_line.user_errors():
        if config is None:
            raise ValueError("--config=FILE is needed, e.g. configs/universal.py.")
        chosen = settings.read(config)
        name = f"{chosen.label}-{chosen.preset}-seed{chosen.seed}".replace(":", "-")
        workdir = Path(_WORKDIR.value or f"runs/{name}")
        run_record.check_same_run(workdir, config.to_dict(), may_differ=_MAY_DIFFER)
        with Interruption() as interruption:
            run = Run(chosen, config.to_dict(), workdir, interruption)
    if jax.process_index() == 0:
        run_record.write_run_record(workdir, config.to_dict())
    print(f"{workdir}: {describe_mesh(run.mesh)}", file=sys.stderr)
    with Interruption() as run.interruption:
        try:
            state, done, seconds = train(run)
        except Stopped:
            print("stopped before the first step; the same command starts again.")
            return
        if done < chosen.loop.steps:
            print(
                f"{interruption.signal_name}: saved at step {done} of "
                f"{chosen.loop.steps}; the same command goes on from there."
            )
            return
    report(run, state, seconds)


def report(run: Run, state: TrainState, seconds: float) -> None:
    """Evaluates the trained network and writes its report."""
    print("report to come", seconds)


if __name__ == "__main__":
    command_line.run(main)
