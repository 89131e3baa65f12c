"""The command that sets token reduction beside VISOR, on tiny checkpoints."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from tests.evals.small import CONFIG
from tests.tiny import params_of
from visor_jax.baselines import compare_baselines
from visor_jax.checkpoints.manager import CheckpointManager
from visor_jax.commands.baseline_study import Options, prepare
from visor_jax.evals.baselines import report as reports
from visor_jax.evals.baselines.conditions import COMBINED, TRAINED
from visor_jax.evals.baselines.times import Timed
from visor_jax.models.decoder.token_reducer import KEEP_ALL
from visor_jax.models.variants import dense
from visor_jax.policy.network import PolicyConfig, new_policy
from visor_jax.token_reduction.trained import to_train_with

METADATA = {
    "settings": {},
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


def saved(workdir, params, **changes):
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
def runs(tmp_path_factory):
    """Returns the options that name a checkpoint of each kind."""
    folder, params = tmp_path_factory.mktemp("runs"), params_of(CONFIG)["params"]
    config = dense(CONFIG)
    dense_run = saved(
        folder / "dense",
        params_of(config)["params"],
        label="dense",
        model=config.to_dict(),
        budgets=["all"],
    )
    sizes = PolicyConfig(num_budgets=2, hidden_widths=(4,))
    policy = new_policy(sizes, CONFIG.decoder.width, jax.random.key(0))
    policy_run = saved(
        folder / "policy",
        {**params, "policy": policy},
        task="policy",
        label="policy:test",
        policy={"config": sizes.to_dict(), "costs": {"sa0": 0.4, "sa1:1": 1.0}},
    )
    return Options(
        dense=[dense_run],
        universal=[saved(folder / "universal", params)],
        policy=[policy_run],
        out=str(folder / "out"),
        pages=2,
        methods=["uniform"],
        # At the FLOPs of a budget alone.
        shares=[],
        reference="none",
        combine=[],
    )


def test_one_command_makes_the_report_and_goes_on_where_it_was(runs, monkeypatch):
    timed = []

    def milliseconds(subjects, conditions, benchmark, **_):
        timed.append([each.name for each in conditions])
        found = {name: {1: 2.0 + i, 32: 1.0 + i} for i, name in enumerate(timed[-1])}
        return Timed(found, [{1: 2.0, 32: 1.0}, {1: 4.0, 32: 2.0}])

    monkeypatch.setattr(reports, "milliseconds", milliseconds)
    report = compare_baselines(runs, command="the command")
    assert "is in each (2.00 to 4.00 ms at 1, 1.00" in report["timing"]
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows)[:4] == ["dense", "VISOR sa0", "VISOR sa1:1", "VISOR auto"]
    (matched,) = (row for row in rows.values() if row["matched"])
    assert matched["reduce"].startswith("uniform:keep=")
    assert matched["llm_share"] <= rows["VISOR sa0"]["llm_share"]
    # New policies have no opinion, and of equals the cheapest is taken.
    auto, cheap = rows["VISOR auto"], rows["VISOR sa0"]
    assert auto["accuracy"] == pytest.approx(cheap["accuracy"])
    assert auto["ms"] == pytest.approx(cheap["ms"])
    assert auto["ms_is"] == "predicted"
    assert [run["label"] for run in report["runs"]][-1] == "policy:test"
    # All is there: nothing is asked, or timed, again.
    monkeypatch.setattr(reports, "measured", None)
    again = compare_baselines(runs)
    assert again["rows"] == report["rows"]
    assert len(timed) == 1
    compare_baselines(dataclasses.replace(runs, retime=True))
    assert len(timed) == 2


def test_networks_trained_with_a_method_stand_at_all_that_they_were_trained_for(
    runs, tmp_path
):
    config = to_train_with(dense(CONFIG), "m3:scales=4+2")
    params = params_of(dense(CONFIG))["params"]
    m3 = saved(
        *(tmp_path / "m3", params),
        label="stage:m3",
        model=config.to_dict(),
        budgets=["all"],
    )
    packed = saved(
        *(tmp_path / "pooled", params_of(CONFIG)["params"]),
        label="stage:visor_tr",
        model=to_train_with(CONFIG, "visor_tr:factor=2").to_dict(),
    )
    longer = saved(
        *(tmp_path / "longer", params),
        label="stage:m3_longer",
        # Written before texts said that there are no newlines.
        model=config.replace(trained_with="m3:grid=12,scales=4+2").to_dict(),
        budgets=["all"],
    )
    trained = [packed, m3, longer]
    asked = dataclasses.replace(runs, trained=trained, methods=["m3", "ldpv2"])
    found = prepare(dataclasses.replace(asked, out=str(tmp_path / "out"))).study
    rows = {each.name: each for each in found.comparison.conditions}
    assert list(rows)[3:] == [
        "VISOR sa0 + visor_tr, trained",
        "VISOR sa1:1 + visor_tr, trained",
        "m3:scales=4+2, trained",
        "m3:tokens=2,scales=4+2, trained",
        "m3:scales=4+2, trained as stage:m3_longer",
        "m3:tokens=2,scales=4+2, trained as stage:m3_longer",
    ]
    assert [each.kind for each in rows.values()][3:] == [COMBINED] * 2 + [TRAINED] * 4
    lengths = [found.costs(rows[name]).image_lengths[0] for name in list(rows)[3:]]
    assert lengths == [72, 72, 16, 4, 16, 4]
    assert list(found.comparison.refused) == ["ldpv2"]
    # What is asked is the network that was trained, at the scale of the row.
    for name, row in rows.items():
        network = found.subjects[row.network][0].at(row)
        assert (network.reducer == KEEP_ALL) == ("trained" not in name)


def test_two_recipes_of_one_label_are_told_and_seeds_are_not(runs, tmp_path):
    config, params = dense(CONFIG), params_of(dense(CONFIG))["params"]

    def run(name, method, seed=0):
        model = config.replace(trained_with=method).to_dict()
        said = {"label": "stage:m3", "model": model, "budgets": ["all"], "seed": seed}
        noisy = jax.tree.map(lambda x: x + 0.01 * len(name), params)
        return saved(tmp_path / name, noisy, **said)

    asked = dataclasses.replace(runs, universal=[], policy=[], reference=None)
    two = [run("a", "m3:scales=4+2"), run("bb", "m3:scales=6+3")]
    with pytest.raises(ValueError, match=r"both labelled 'stage:m3' .*trained_with"):
        prepare(dataclasses.replace(asked, trained=two))
    dense_runs = [
        *runs.dense,
        saved(
            *(tmp_path / "dense", jax.tree.map(lambda x: 1.1 * x, params)),
            **{"label": "dense", "model": config.to_dict(), "budgets": ["all"]},
            seed=1,
        ),
    ]
    # A seed from before texts said that there are no newlines.
    seeds = [two[0], run("ccc", "m3:newlines=drop,grid=12,scales=4+2", seed=1)]
    both = dataclasses.replace(asked, dense=dense_runs, trained=seeds)
    found = prepare(dataclasses.replace(both, out=str(tmp_path / "out"))).study
    assert [len(each) for each in found.subjects.values()] == [2, 2]
    # What nothing is concluded from has one seed; nobody has more than the others.
    fewer = dataclasses.replace(both, trained=seeds[:1], out=str(tmp_path / "fewer"))
    found = prepare(fewer).study
    assert [len(each) for each in found.subjects.values()] == [2, 1]
    names = [condition.name for subject, condition in found.work if subject.seed == 1]
    assert names
    assert not any("m3" in name for name in names)
    with pytest.raises(ValueError, match=r"--trained has 2 of stage:m3 .*--dense 1"):
        prepare(dataclasses.replace(both, dense=dense_runs[:1]))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"pages": 0}, "--pages=0 must be at least 1"),
        ({"methods": ["visionsip"]}, r"Unknown token reduction \['visionsip'\]"),
        ({"shares": ["a half"]}, "'a half' is no share such as 1/4"),
        ({"shares": ["3/2"]}, r"Shares of the tokens \[1.5\]"),
        ({"universal": []}, "--policy needs --universal"),
        ({"reference": "all", "budgets": "none", "policy": []}, "not among VISOR's"),
        ({"split": "testt"}, "testt"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_network_runs(runs, changes, why):
    with pytest.raises(ValueError, match=why):
        prepare(dataclasses.replace(runs, **changes))


def test_networks_are_what_their_flags_say(runs):
    with pytest.raises(ValueError, match="is a network of the label 'universal'"):
        prepare(
            dataclasses.replace(runs, dense=runs.universal, universal=[], policy=[])
        )
    with pytest.raises(ValueError, match="was trained with all of its tokens"):
        prepare(
            dataclasses.replace(runs, trained=runs.universal, universal=[], policy=[])
        )
    with pytest.raises(ValueError, match=r"as many seeds .*--dense 2, --universal 1"):
        prepare(dataclasses.replace(runs, dense=[*runs.dense, "other"]))
    with pytest.raises(ValueError, match="given more than once"):
        prepare(dataclasses.replace(runs, dense=runs.universal))
