import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from absl import flags

from tests.evals.small import CONFIG
from tests.tiny import params_of
from visor_jax import evaluate
from visor_jax.checkpoints.manager import CheckpointManager
from visor_jax.evals import checkpoints
from visor_jax.evaluate import evaluate_checkpoints
from visor_jax.inference.loading.open_network import open_network
from visor_jax.models.variants import dense, llava_ov_0p5b
from visor_jax.policy.network import PolicyConfig, new_policy

_ROOT = Path(__file__).parents[1]
# Groups that training would refuse, as those of a run that was made before it did.
_GROUPS = {"projector": {"learning_rate": None, "pattern": "^(projector/|newline$)"}}
METADATA = {
    "settings": {"optimizer": {"groups": _GROUPS}},
    "model": CONFIG.to_dict(),
    "budgets": ["sa0", "sa1:1"],
    "task": "universal",
    "label": "universal",
    "preset": "mini",
    "seed": 0,
    "train_steps": 3,
    "wall_clock_s": 1.5,
    "data": {"seed": 0},
    "metrics_offset": 0,
}


def _save(workdir, params, **changes):
    """Returns the workdir after saving the network as trained with this seed."""
    shift = 0.1 * changes.get("seed", 0)
    params = jax.tree.map(lambda x: x + shift, params)
    with CheckpointManager(workdir, save_every=1) as manager:
        manager.save(
            3,
            params=params,
            optimizer={"step": jnp.int32(3)},
            data_iterator=None,
            metadata={**METADATA, **changes},
        )
    return str(workdir)


@pytest.fixture(scope="module")
def params():
    return params_of(CONFIG)["params"]


@pytest.fixture(scope="module")
def run(params, tmp_path_factory):
    return _save(tmp_path_factory.mktemp("run"), params)


def test_report_from_a_path_alone(run, capsys):
    with own_flags():
        arguments = [f"--checkpoint={run}", "--pages=2", "--budgets=none"]
        evaluate.main(flags.FLAGS(["evaluate", *arguments]))
    report = json.loads((Path(run) / "report/report.json").read_text())
    assert [row["budget"] for row in report["rows"]] == ["sa0"]
    assert (report["train_steps"], report["wall_clock_s"]) == (3, 1.5)
    assert report["command"].startswith("python -m visor_jax.evaluate ")
    printed = capsys.readouterr().out
    assert "LLM saving" in printed
    assert "report.md" in printed


def test_the_program_ends_with_one_line_and_code_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "visor_jax.evaluate", f"--checkpoint={tmp_path}"],
        cwd=_ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")


def test_several_runs_become_one_report(run, params, tmp_path, monkeypatch):
    other = _save(tmp_path / "other", params, seed=1)
    only = _save(tmp_path / "only", params, label="dedicated:sa0", budgets=["sa0"])
    done, read = [], []

    def open_once(path, **how):
        read.append(path)
        return open_network(path, **how)

    monkeypatch.setattr(checkpoints, "open_network", open_once)
    report = evaluate_checkpoints(
        [run, other, only],
        out=str(tmp_path / "merged"),
        pages=2,
        budgets="none",
        progress=lambda *counts: done.append(counts),
    )
    assert read == [run, other, only]
    assert (tmp_path / "merged/report.md").exists()
    models = [row["model"] for row in report["rows"]]
    assert models == ["universal", "dedicated:sa0"]
    first, dedicated = report["rows"]
    assert first["seeds"] == [0, 1]
    # The dedicated one has the parameters of seed 0, so that they are run once.
    for group, spread in first["spread"].items():
        if group in dedicated["accuracy"]:
            assert spread["values"][0] == dedicated["accuracy"][group]
    # Two pages of ten questions, one network after the other.
    assert done == [(20, 40), (40, 40)]


def test_what_are_no_seeds_is_refused_before_any_network_runs(run, params, tmp_path):
    longer = _save(tmp_path / "longer", params, seed=1, train_steps=9)
    with pytest.raises(ValueError, match=r"differ in train_steps \(3 and 9\)"):
        evaluate_checkpoints([run, longer], pages=2)
    again = _save(tmp_path / "again", params)
    with pytest.raises(ValueError, match="both 'universal', are the same"):
        evaluate_checkpoints([run, again], pages=2)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"label": "sparse"}, "Unknown model label 'sparse'"),
        ({"budgets": ["sa1:2"]}, r"switches on layers \[2\]"),
        ({"model": {"plan": []}}, "not a VLMConfig"),
        (
            {"model": llava_ov_0p5b().to_dict(), "budgets": ["sa0"]},
            "384-pixel images cannot answer the embedded benchmark",
        ),
        # Whatever its size: the run says what it was trained on.
        ({"data": {"kind": "conversations"}}, "it was not trained on its pages"),
    ],
)
def test_unusable_descriptions_are_refused(params, tmp_path, changes, expected):
    path = _save(tmp_path, params, **changes)
    with pytest.raises(ValueError, match=expected):
        evaluate_checkpoints([path], pages=2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"pages": 0}, "--pages=0"),
        ({"split": "trial"}, "Unknown split 'trial'"),
        ({"budgets": "sa7"}, "Budget 'sa7' says 7"),
        ({"budgets": "most"}, "Unknown budget 'most'"),
        ({"costs": (5.0,)}, "--cost=5 is for policies, and there is none here"),
    ],
)
def test_unusable_options_are_named(run, options, expected):
    with pytest.raises(ValueError, match=expected):
        evaluate_checkpoints([run], **{"pages": 2, **options})
    with pytest.raises(ValueError, match="more than once"):
        evaluate_checkpoints([run, run])


def test_budgets_are_for_universal_networks(params, tmp_path):
    path = _save(tmp_path, params, label="dedicated:sa0", budgets=["sa0"])
    with pytest.raises(ValueError, match="there is none here"):
        evaluate_checkpoints([path], budgets="sa0")


def test_a_dense_network_is_tried_at_budgets_it_was_not_trained_for(run, tmp_path):
    """...beside a universal one, in one report and one picture."""
    network = dense(CONFIG)
    path = _save(
        tmp_path / "dense",
        params_of(network)["params"],
        label="dense",
        model=network.to_dict(),
        budgets=["all"],
    )
    report = evaluate_checkpoints(
        [path, run],
        out=str(tmp_path / "both"),
        pages=2,
        budgets="none",
        untrained="read,sa1:0+rd1:1",
    )
    found = {(row["model"], row["budget"]): row for row in report["rows"]}
    assert list(found) == [
        ("dense", "sa3:0,1,2"),
        ("universal", "sa0"),
        ("untrained", "sa0+rd3:0,1,2"),
        ("untrained", "sa1:0+rd1:1"),
    ]
    dearest, *_, cheaper, cheapest = (row["flops"] for row in found.values())
    assert cheapest["llm_prefill"] != cheaper["llm_prefill"] < dearest["llm_prefill"]
    assert (tmp_path / "both/accuracy_vs_flops.png").stat().st_size > 0
    with pytest.raises(ValueError, match="--untrained=read is for dense networks"):
        evaluate_checkpoints([run], pages=2, untrained="read")
    # Without names it is itself alone.
    (row,) = evaluate_checkpoints([path], pages=2, out=str(tmp_path / "one"))["rows"]
    assert row["model"] == "dense"


def test_a_file_is_no_folder_for_a_report(run):
    with pytest.raises(ValueError, match="is a file, not a folder"):
        evaluate_checkpoints([run], out=__file__)


def test_users_mistakes_are_named_before_any_network_runs(run, tmp_path, capsys):
    (tmp_path / "checkpoints" / "3" / "metadata").mkdir(parents=True)
    for arguments, expected in (
        ((f"--checkpoint={tmp_path}",), "damaged or half written"),
        ((f"--checkpoint={run}", "--budgets=sa2:1,3"), "layers [3]"),
        ((f"--checkpoint={run}", "--cost=0"), "--cost=0 is for policies"),
        ((f"--checkpoint={run}", "--cost=much"), "--cost=much"),
    ):
        with own_flags(), pytest.raises(SystemExit) as stopped:
            evaluate.main(flags.FLAGS(["evaluate", *arguments]))
        assert stopped.value.code == 2
        printed = capsys.readouterr()
        (line,) = printed.err.splitlines()
        assert line.startswith("error: ")
        assert expected in line


@contextlib.contextmanager
def own_flags():
    """Inside, this process has the program's flags."""
    before = set(flags.FLAGS)
    evaluate.define_flags()
    try:
        yield
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()


def test_a_policy_adds_its_choices(run, params, tmp_path):
    config = PolicyConfig(num_budgets=2, hidden_widths=(4,))
    policy = new_policy(config, CONFIG.decoder.width, jax.random.key(0))
    described = {"config": config.to_dict(), "costs": {"sa0": 0.4, "sa1:1": 1.0}}
    path = _save(
        tmp_path / "policy",
        {**params, "policy": policy},
        task="policy",
        label="policy:test",
        policy=described,
    )
    report = evaluate_checkpoints([run, path], pages=2, costs=(0.0, 1e6, -1e6))
    rows = {(row["model"], row["budget"]): row for row in report["rows"]}
    names = ["auto", "auto, cost 1e+06", "auto, cost -1e+06", "random", "oracle"]
    assert list(rows) == [
        ("universal", "sa0"),
        ("universal", "sa1:1"),
        *(("policy:test", name) for name in names),
    ]
    # New policies have no opinion, and of equals the cheapest is taken.
    for name, budget in (("auto", "sa0"), (names[1], "sa0"), (names[2], "sa1:1")):
        row, fixed = rows["policy:test", name], rows["universal", budget]
        assert row["accuracy"] == pytest.approx(fixed["accuracy"])
        assert row["llm_saving"] == pytest.approx(fixed["llm_saving"])
