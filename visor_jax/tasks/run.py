"""One training run, and what the loop needs to know of the task that it trains."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import flax.linen as nn
import jax
from etils import epath

from visor_jax.checkpoints import layout
from visor_jax.checkpoints.restore import read_metadata
from visor_jax.data.conversations.mixture import read_mixture
from visor_jax.models.vlm import VLM
from visor_jax.runtime.interruption import Interruption
from visor_jax.runtime.machine import git_commit
from visor_jax.runtime.ownership import owned_folder
from visor_jax.runtime.remote.mirror import Mirror, owned_place
from visor_jax.settings.run_settings import (
    PolicySettings,
    RunSettings,
    UniversalSettings,
)
from visor_jax.sharding.axis_rules import logical_rules
from visor_jax.sharding.batch_rows import process_rows
from visor_jax.tasks.training_data import TrainingData
from visor_jax.token_reduction.trained import as_trained
from visor_jax.training.layer_stacks import LayerStacks
from visor_jax.training.state import TrainState

Params = Any

_logger = logging.getLogger(__name__)

# In the workdir.
REPORT, CACHE = "report", "cache"


def run_home(workdir: epath.PathLike) -> Path | epath.Path:
    """Returns where a run lives, a folder or gs://BUCKET/FOLDER.

    Raises:
      UserError: if it is of a bucket that cannot be used.
    """
    is_remote = layout.is_remote(workdir)
    return layout.absolute(workdir) if is_remote else Path(workdir)


def _mirror_of(place: os.PathLike[str]) -> Mirror:
    """Returns the mirror of a run: pools and towers stay on the machine they fit."""
    return Mirror(place, apart=(layout.CHECKPOINTS, REPORT, CACHE))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training run: its settings and what is made of them before any work.

    workdir: of this machine. place: gs://..., if that is where the run lives; then
    `workdir` stands for it here (`runtime.remote.mirror`).
    """

    settings: RunSettings
    workdir: Path
    mesh: jax.sharding.Mesh
    interruption: Interruption
    place: epath.Path | None = None

    @classmethod
    def at(cls, home: PurePath, **made: Any) -> "Run":
        """Returns the run that lives at `run_home`, of its other fields."""
        if layout.is_remote(home):
            return cls(workdir=_mirror_of(home).folder, place=epath.Path(home), **made)
        return cls(workdir=Path(home), **made)

    @property
    def home(self) -> PurePath:
        """Where the run lives, checkpoints and all: what whoever asks is told."""
        return self.place or self.workdir

    @functools.cached_property
    def mirror(self) -> Mirror | None:
        """The run's small files, if it lives in a bucket."""
        return None if self.place is None else _mirror_of(self.place)

    def owned(self, remedy: str) -> contextlib.AbstractContextManager[None]:
        """Inside, this process alone owns the run, and `workdir` holds its files.

        Raises:
          TakenError: if another one does. UserError: if it cannot be written to.
        """
        if self.mirror is None:
            return owned_folder(self.workdir, remedy=remedy)
        _logger.info(
            "%s: drawn pages, the tower and measured lengths stay on this machine, in "
            "%s; metrics are written to %s and uploaded with every checkpoint",
            *(self.home, self.cache, self.workdir),
        )
        return self.mirror.owned(remedy)

    def upload(self) -> None:
        """Brings the run's small files to its bucket, if it lives in one.

        Raises:
          UploadError: if it does not take them.
        """
        if self.mirror is not None and jax.process_index() == 0:
            self.mirror.upload()

    def report_folder(self) -> contextlib.AbstractContextManager[Path]:
        """Yields the folder of the report, for this process alone."""
        # An evaluation of an earlier checkpoint may be writing there.
        return owned_place(self.home / REPORT, wait=lambda: None)

    @functools.cached_property
    def model(self) -> VLM:
        return as_trained(self.settings.model)

    @functools.cached_property
    def cache(self) -> Path:
        return Path(self.settings.data.cache or self.workdir / CACHE)

    @functools.cached_property
    def rows(self) -> slice:
        """The rows of every batch that this process loads."""
        return process_rows(self.mesh, self.settings.data.batch_size)

    def data_digest(self) -> str:
        """Returns a digest of the converted data that the run reads, or "drawn"."""
        s = self.settings
        if s.data.path is None:
            return "drawn"
        mixture = read_mixture(s.data.path, seed=s.seed)
        sets = [[each.manifest.checksum, each.strategy] for each in mixture]
        return hashlib.sha256(json.dumps(sets).encode()).hexdigest()[:16]

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
            "settings": recipe(s),
            "git_commit": git_commit(),
            "data": {"kind": s.data.kind, "seed": s.seed},
            "init_from": s.init_from,
            "source": self.source,
        }

    @contextlib.contextmanager
    def on_mesh(self) -> Iterator[None]:
        """What runs inside is split over the run's devices."""
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(logical_rules()):
            yield


# Keys of settings that say which seed, where things lie, or when to refuse.
_NOT_OF_THE_RECIPE = frozenset({"seed", "cache", "max_left_out"})


def recipe(s: RunSettings) -> dict[str, Any]:
    """Returns the settings of training that runs of different seeds have in common.

    What else they share (network, budgets, steps, policy) the metadata say already.
    """
    parts: dict[str, Any] = {"optimizer": s.optimizer, "data": s.data}
    if isinstance(s, UniversalSettings):
        if s.model.projector_convolution is None:
            # When it begins does not matter.
            parts["optimizer"] = dataclasses.replace(
                s.optimizer, convolution_begins=0.0
            )
        parts |= {"objective": s.objective, "tower": s.tower}
        parts["budget_phases"] = s.schedule.phases
    if isinstance(s, PolicySettings):
        parts["scores"] = s.scores
    return _as_json(parts)


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {f: getattr(value, f.name) for f in dataclasses.fields(value)}
        value = {
            f.name: each
            for f, each in fields.items()
            if not (f.metadata.get("came_later") and each == f.default)
        }
    if isinstance(value, Mapping):
        kept = value.keys() - _NOT_OF_THE_RECIPE
        return {key: _as_json(value[key]) for key in sorted(kept)}
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A prepared task.

    data: batches of the whole run. create: makes the state before the first step.
    given: from the abstract state to parameters that a new run begins with.
    step: pure, (state, batch) -> state. frozen: patterns of what does not train.
    stacks: from the parameters to what the step takes as one; inside the run's mesh.
    summary: from the state's sums to what is logged. metadata: for every checkpoint,
    beside the run's own.
    """

    data: TrainingData
    create: Callable[[], TrainState]
    given: Callable[[TrainState], Params]
    step: Callable[[TrainState, Any], TrainState]
    frozen: tuple[str, ...]
    summary: Callable[[Any], dict[str, float]]
    stacks: Callable[[Params], LayerStacks] = lambda params: LayerStacks()
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
