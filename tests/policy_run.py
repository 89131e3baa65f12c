"""A policy's training run on a tiny network, small enough for a test."""

from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest

from configs import policy as policy_config
from tests.inference import page_run
from visor_jax import train
from visor_jax.data.pages.batches import EVALUATION_LENGTH
from visor_jax.evals.pages import policy_report
from visor_jax.runtime.interruption import Interruption
from visor_jax.settings.read import read_settings
from visor_jax.sharding.mesh import MESH_AXES, as_mesh
from visor_jax.tasks import policy
from visor_jax.tasks.run import Run

STEPS = 12
PAGES = 8
# Between them the few steps leave the questions' own differences.
PREFERENCES = (-5.0, -0.05, -0.04, -0.03, -0.02, -0.01, 0.0, 5.0)
BUDGETS = ("sa0", "sa2:1,2")


def save_network(workdir: Path) -> Path:
    """Returns the workdir of a universal network."""
    return page_run.save(workdir, page_run.parameters(), budgets=list(BUDGETS))


def configure(
    network: Path, objective: str = "straight_through"
) -> ml_collections.ConfigDict:
    """Returns the configuration of a short run.

    Rows that are scored have the shape of those that are evaluated, so that they share
    their programs.
    """
    config = policy_config.get_config(objective)
    config.init_from = str(network)
    config.data.batch_size = 16
    config.data.pages.update(
        pool_size=12, questions_per_page=10, text_length=EVALUATION_LENGTH
    )
    config.scores.update(batches=2, batch_size=PAGES)
    # The answers of a random network hardly differ, so that costs would decide alone.
    config.objective.cost_weight = 0.0
    config.optimizer.update(warmup_steps=2, learning_rate=3e-3)
    config.loop = {"steps": STEPS, "log_every": 4, "checkpoint_every": 6}
    config.evaluation_pages = PAGES
    return config


def mesh_of(*sizes: int) -> jax.sharding.Mesh:
    """Returns the mesh over the first devices, as many as it needs."""
    devices = np.array(jax.devices()[: int(np.prod(sizes))]).reshape(sizes)
    return as_mesh(jax.sharding.Mesh(devices, MESH_AXES))


def run_of(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    mesh: jax.sharding.Mesh | None = None,
    interruption: Interruption | None = None,
) -> Run:
    """Returns the run, on one device unless a mesh is given."""
    return Run(
        settings=read_settings(config),
        workdir=workdir,
        mesh=mesh or mesh_of(1, 1, 1),
        interruption=interruption or Interruption(),
    )


def finish(run: Run) -> None:
    """Trains a policy and writes its report."""
    state, done, seconds = train.train(run)
    assert done == STEPS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy_report, "PREFERENCES", PREFERENCES)
        policy.report(run, state, seconds)
