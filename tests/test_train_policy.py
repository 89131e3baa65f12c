"""The task "policy" of the training entry, from the scores to the report."""

import json
import shutil

import jax
import numpy as np
import pytest

import visor_jax
from tests.checkpoints.saved import load_checkpoint
from tests.inference import page_run
from tests.policy_run import (
    BUDGETS,
    PAGES,
    STEPS,
    configure,
    finish,
    mesh_of,
    run_of,
    save_network,
)
from tests.tolerances import GRADIENT, REORDERED
from visor_jax import train
from visor_jax.data.pages.questions import TASK_NAMES
from visor_jax.evals.pages.benchmark import GROUPS, PageBenchmark
from visor_jax.evals.policy_choices import policy_logits
from visor_jax.inference.loading.open_network import open_network
from visor_jax.models.variants import llava_ov_0p5b
from visor_jax.policy.network import PARAMS, PolicyConfig
from visor_jax.runtime.interruption import Interruption, Stopped
from visor_jax.runtime.user_error import UserError
from visor_jax.settings.read import read_settings
from visor_jax.sharding.mesh import MeshSettings
from visor_jax.tasks import policy, policy_data
from visor_jax.training.optimizer import make_optimizer


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A workdir of a tiny universal network."""
    return save_network(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def trained(network, tmp_path_factory):
    """The workdir of a policy that was trained on one device."""
    workdir = tmp_path_factory.mktemp("trained")
    finish(run_of(configure(network), workdir))
    return workdir


@pytest.fixture(scope="module")
def opened(trained):
    return visor_jax.load(trained)


def prepare(run):
    return policy.prepare(run, make_optimizer(run.settings.optimizer, STEPS))


def score_files(network):
    return sorted((network / "cache").glob("scores-*/*/*.npz"))


def test_a_checkpoint_holds_the_network_as_it_was_and_the_policy(network, trained):
    before, after = load_checkpoint(network), load_checkpoint(trained)
    kept = {k for k in before.params if not k.startswith("reading_heads")}
    assert set(after.params) == kept | {PARAMS}
    for name in kept:
        jax.tree.map(
            np.testing.assert_array_equal, after.params[name], before.params[name]
        )
    assert after.metadata["task"] == "policy"
    assert after.metadata["model"] == before.metadata["model"]
    assert after.metadata["budgets"] == before.metadata["budgets"]
    said = after.metadata["settings"]
    assert said["scores"] == {"batches": 2, "batch_size": PAGES}
    assert said["optimizer"]["warmup_steps"] == 2
    assert said["optimizer"]["learning_rate"] == 3e-3
    assert "seed" not in said["data"]["pages"]
    described = after.metadata["policy"]
    config = PolicyConfig.from_dict(described["config"])
    assert config.num_budgets == len(BUDGETS)
    assert list(described["costs"]) == list(BUDGETS)
    assert max(described["costs"].values()) == described["costs"]["sa2:1,2"] == 1
    kernel = after.params[PARAMS]["logits"]["kernel"]
    assert np.any(kernel != 0)


def test_load_opens_it_as_the_network(network, opened):
    question = (page_run.page(), "ring")
    expected = visor_jax.load(network).logits(*question)
    found = opened.logits(*question)
    np.testing.assert_array_equal(found, expected)


def test_the_report_has_what_the_policy_chooses_at_inference(trained, opened):
    """Against the library: every question on its own, as a user would ask it."""
    report = json.loads((trained / "report/policy.json").read_text())
    requests = [example.request for example in PageBenchmark.make(PAGES).examples()]
    for row in report["auto"]:
        chosen = opened.choose(requests, cost=row["preference"])
        costs = np.array([report["costs"][budget.name] for budget in chosen])
        by_task = costs.reshape(PAGES, len(TASK_NAMES)).mean(axis=0)
        for group, names in GROUPS.items():
            mine = [TASK_NAMES.index(name) for name in names]
            assert row["cost"][group] == pytest.approx(by_task[mine].mean())
        if not row["preference"]:
            share = np.array([budget.name == "sa0" for budget in chosen])
            share = share.reshape(PAGES, -1).mean(axis=0).tolist()
            said = [report["shares"][task]["sa0"] for task in TASK_NAMES]
            assert said == pytest.approx(share)
    # Questions get unlike budgets, and the preference turns all of them.
    costs = [row["cost"]["mixed"] for row in report["auto"]]
    assert costs == sorted(costs, reverse=True)
    assert any(costs[-1] < cost < costs[0] for cost in costs)


def test_the_report_is_complete(trained):
    report = json.loads((trained / "report/policy.json").read_text())
    assert [row["budget"] for row in report["fixed"]] == list(BUDGETS)
    assert report["calibration"]["samples"] == 10 * PAGES
    assert sum(b["count"] for b in report["calibration"]["bins"]) == 10 * PAGES
    assert (trained / "report/calibration.png").stat().st_size > 1000


def test_a_run_goes_on_bit_identically(network, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints" / str(STEPS))
    train.train(run_of(configure(network), tmp_path / "run"))
    jax.tree.map(
        np.testing.assert_array_equal,
        load_checkpoint(tmp_path / "run").params,
        load_checkpoint(trained).params,
    )
    lines = [(d / "metrics.jsonl").read_bytes() for d in (trained, tmp_path / "run")]
    assert lines[0] == lines[1]


def test_all_policies_of_a_network_share_its_scores(
    network, trained, tmp_path, monkeypatch
):
    # Two batches to train on and one to test on, of each what the policy sees and the
    # answers at two budgets.
    assert len(score_files(network)) == 3 * (1 + len(BUDGETS))

    def scored_again(*_, **__):
        raise AssertionError("these scores were there")

    monkeypatch.setattr(policy_data, "score_batch", scored_again)
    for objective in ("pseudo_labels", "expected_loss"):
        config = configure(network, objective)
        config.seed = 7
        task = prepare(run_of(config, tmp_path / objective))
        assert task.data.example.losses.shape == (16, len(BUDGETS))
    config.scores.seed = 1
    with pytest.raises(AssertionError, match="these scores were there"):
        prepare(run_of(config, tmp_path / "other"))


def test_scoring_can_be_stopped_and_gone_on_with(network, trained, tmp_path):
    class Asked(Interruption):
        requested = True

    config = configure(network)
    config.scores.cache = str(tmp_path / "scores")
    run = run_of(config, tmp_path / "run", interruption=Asked())
    # Not while drawing pages, which are those of the first run.
    assert list((network / "cache").glob("pages-*-policy-*"))
    with pytest.raises(Stopped):
        prepare(run)
    files = sorted((tmp_path / "scores").glob("scores-*/*/*.npz"))
    assert len(files) == 1 + len(BUDGETS)
    whole = {"/".join(file.parts[-3:]): file for file in score_files(network)}
    for file in files:
        same = whole["/".join(file.parts[-3:])]
        assert file.read_bytes() == same.read_bytes()


@pytest.mark.parametrize(
    "sizes", [pytest.param((8, 1, 1), marks=pytest.mark.slow), (2, 2, 2)]
)
def test_a_mesh_trains_and_asks_the_same_policy_as_one_device(
    network, trained, opened, tmp_path, sizes
):
    config = configure(network)
    config.scores.cache = str(tmp_path / "scores")
    finish(run_of(config, tmp_path / "run", mesh=mesh_of(*sizes)))
    one, split = (load_checkpoint(d).params for d in (trained, tmp_path / "run"))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **GRADIENT),
        split[PARAMS],
        one[PARAMS],
    )
    for name in one.keys() - {PARAMS}:
        jax.tree.map(np.testing.assert_array_equal, split[name], one[name])
    logged = [
        [json.loads(x) for x in (d / "metrics.jsonl").read_text().splitlines()]
        for d in (trained, tmp_path / "run")
    ]
    for alone, together in zip(*logged, strict=True):
        assert together == pytest.approx(alone, rel=1e-4, abs=1e-5)
    reports = [
        json.loads((d / "report/policy.json").read_text())
        for d in (trained, tmp_path / "run")
    ]
    for key in ("fixed", "auto", "oracle", "shares"):
        assert reports[0][key] == reports[1][key]
    # The policy of one device, asked on the mesh.
    data, fsdp, tensor = sizes
    mesh = MeshSettings(data=data, fsdp=fsdp, tensor=tensor)
    asked = PageBenchmark.make(PAGES)
    found = [
        policy_logits(network, asked)
        for network in (open_network(trained), open_network(trained, mesh=mesh))
    ]
    np.testing.assert_allclose(found[1], found[0], **REORDERED)


def test_blended_gates_train_too(network, trained, tmp_path):
    config = configure(network, "straight_through_blended")
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
        ({"scores": {"batches": 1, "seed": -1}}, "scores.seed=-1"),
        ({"label": "cheap"}, "Policy label 'cheap'"),
    ],
)
def test_mistakes_are_named_before_any_work(network, change, message):
    config = configure(network).to_dict()
    with pytest.raises(ValueError, match=message):
        read_settings({**config, **change})


def test_a_network_that_reads_no_pages_is_refused(tmp_path):
    model = llava_ov_0p5b().to_dict()
    page_run.save(tmp_path, {"a": np.zeros(1)}, model=model, budgets=["sa0"])
    with pytest.raises(ValueError, match="cannot answer the embedded benchmark"):
        read_settings(configure(tmp_path))


def test_what_does_not_split_over_the_devices_is_refused(network, tmp_path):
    config = configure(network)
    config.scores.batch_size = 6
    complaint = r"scores\.batch_size=6 does not split over the 8"
    with pytest.raises(UserError, match=complaint):
        prepare(run_of(config, tmp_path, mesh=mesh_of(8, 1, 1)))


def test_a_cache_that_cannot_be_written_is_named(network, tmp_path):
    (tmp_path / "file").write_text("")
    for key in ("scores", "data"):
        config = configure(network)
        config[key].cache = str(tmp_path / "file/cache")
        remedy = rf"give another place, --config\.{key}\.cache=DIRECTORY"
        with pytest.raises(UserError, match=remedy):
            prepare(run_of(config, tmp_path))


def test_a_step_outside_a_workdir_leaves_its_surroundings_alone(network, tmp_path):
    (step,) = (network / "checkpoints").iterdir()
    shutil.copytree(step, tmp_path / "models/7")
    run = run_of(configure(tmp_path / "models/7"), tmp_path / "run")
    assert policy._score_folder(run) == tmp_path / "run/cache"
    beside = run_of(configure(network), tmp_path / "run")
    assert policy._score_folder(beside) == network / "cache"
