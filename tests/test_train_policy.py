"""The task "policy" of the training entry, from the scores to the report."""

import json
import shutil

import jax
import numpy as np
import pytest

import visor_jax
from configs import policy as policy_config
from tests.inference import page_run
from visor_jax import settings, train
from visor_jax.checkpoints.restore import load_checkpoint
from visor_jax.policy.network import PARAMS, PolicyConfig
from visor_jax.sharding.mesh import make_mesh
from visor_jax.tasks import policy
from visor_jax.tasks.run import Run
from visor_jax.training.interruption import Interruption
from visor_jax.training.optimizer import make_optimizer
from visor_jax.training.stages import Stopped

STEPS = 12


def configure(network, cache, objective="pseudo_labels"):
    config = policy_config.get_config(objective)
    config.init_from = str(network)
    config.data.cache = str(cache)
    config.data.batch_size = 16
    config.data.pages.update(pool_size=12, questions_per_page=3, text_length=24)
    config.scores = {"batches": 2, "batch_size": 8}
    config.optimizer.warmup_steps = 2
    config.loop = {"steps": STEPS, "log_every": 4, "checkpoint_every": 6}
    config.evaluation_pages = 8
    return config


def run_of(config, workdir, interruption=None) -> Run:
    chosen = settings.read(config)
    return Run(
        settings=chosen,
        workdir=workdir,
        mesh=make_mesh(chosen.mesh),
        interruption=interruption or Interruption(),
    )


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A workdir of a tiny universal network."""
    folder = tmp_path_factory.mktemp("network")
    return page_run.save(folder, page_run.parameters())


@pytest.fixture(scope="module")
def trained(network, tmp_path_factory):
    """A finished policy run: (workdir, cache)."""
    folder = tmp_path_factory.mktemp("trained")
    run = run_of(configure(network, folder / "cache"), folder / "run")
    state, done, seconds = train.train(run)
    assert done == STEPS
    policy.report(run, state, seconds)
    return folder / "run", folder / "cache"


def test_a_checkpoint_holds_the_network_as_it_was_and_the_policy(network, trained):
    before, after = load_checkpoint(network), load_checkpoint(trained[0])
    kept = {k for k in before.params if not k.startswith("reading_heads")}
    assert set(after.params) == kept | {PARAMS}
    for name in kept:
        jax.tree.map(
            np.testing.assert_array_equal, after.params[name], before.params[name]
        )
    assert after.metadata["task"] == "policy"
    assert after.metadata["model"] == before.metadata["model"]
    assert after.metadata["budgets"] == before.metadata["budgets"]
    described = after.metadata["policy"]
    config = PolicyConfig.from_dict(described["config"])
    assert config.num_budgets == len(page_run.BUDGETS)
    assert list(described["costs"]) == list(page_run.BUDGETS)
    assert max(described["costs"].values()) == described["costs"]["sa2:1,2"] == 1
    kernel = after.params[PARAMS]["logits"]["kernel"]
    assert np.any(kernel != 0)


def test_load_opens_it_as_the_network(network, trained):
    question = (page_run.page(), "ring")
    expected = visor_jax.load(network).logits(*question)
    found = visor_jax.load(trained[0]).logits(*question)
    np.testing.assert_array_equal(found, expected)


def test_the_report_has_every_budget_and_preference(trained):
    report = json.loads((trained[0] / "report/policy.json").read_text())
    assert [row["budget"] for row in report["fixed"]] == list(page_run.BUDGETS)
    costs = [row["cost"]["mixed"] for row in report["auto"]]
    assert costs == sorted(costs, reverse=True)
    assert report["calibration"]["samples"] == 80
    assert sum(b["count"] for b in report["calibration"]["bins"]) == 80
    assert (trained[0] / "report/calibration.png").stat().st_size > 1000
    for shares in report["shares"].values():
        np.testing.assert_allclose(sum(shares.values()), 1)


def test_a_run_goes_on_bit_identically_and_scores_nothing_again(
    network, trained, tmp_path
):
    workdir, cache = trained
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints" / str(STEPS))
    files = sorted(cache.glob("scores-*/*.npz"))
    times = [file.stat().st_mtime_ns for file in files]
    train.train(run_of(configure(network, cache), tmp_path / "run"))
    # Two batches to train on and one to test on, as they were.
    assert len(files) == 3
    assert [file.stat().st_mtime_ns for file in files] == times
    jax.tree.map(
        np.testing.assert_array_equal,
        load_checkpoint(tmp_path / "run").params,
        load_checkpoint(workdir).params,
    )
    lines = [(d / "metrics.jsonl").read_bytes() for d in (workdir, tmp_path / "run")]
    assert lines[0] == lines[1]


def test_scoring_can_be_stopped_and_gone_on_with(network, trained, tmp_path):
    class Asked(Interruption):
        requested = True

    pools = [f for f in trained[1].iterdir() if f.name.startswith("pages-")]
    for file in pools:
        shutil.copy(file, tmp_path)
    config = configure(network, tmp_path)
    run = run_of(config, tmp_path / "run", Asked())
    optimizer = make_optimizer(run.settings.optimizer, STEPS)
    with pytest.raises(Stopped):
        policy.prepare(run, optimizer)
    (first,) = tmp_path.glob("scores-*/*.npz")
    (same,) = [
        f
        for f in trained[1].glob("scores-*/00000.npz")
        if f.parent.name == first.parent.name
    ]
    assert first.read_bytes() == same.read_bytes()


def test_blended_gates_train_too(network, trained, tmp_path):
    config = configure(network, trained[1], "straight_through_blended")
    config.loop.steps, config.optimizer.warmup_steps = 2, 1
    run = run_of(config, tmp_path / "run")
    _, done, _ = train.train(run)
    assert done == 2
    assert PARAMS in load_checkpoint(tmp_path / "run").params


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_from": None}, "--config.init_from=WORKDIR"),
        ({"init_from": "nowhere"}, "does not exist"),
        ({"budgets": ("none", "sa1:2")}, r"\['sa1:2'\] are not among those"),
        ({"budgets": ("none",)}, "nothing to choose"),
        (
            {"policy": {"routing_token": False, "image_features": False}},
            "reads nothing",
        ),
        ({"objective": {"kind": "guess"}}, "kind='guess'"),
        ({"scores": {"batches": 0}}, "'batches': 0"),
    ],
)
def test_mistakes_are_named_before_any_work(network, tmp_path, change, message):
    config = configure(network, tmp_path).to_dict()
    with pytest.raises(ValueError, match=message):
        settings.read({**config, **change})
