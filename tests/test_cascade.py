"""The command that calibrates a cascade, and what takes its threshold from there."""

import json

import numpy as np
import pytest
from absl import flags

import visor_jax
from tests import own_flags
from tests.inference import page_run
from visor_jax import cascade, evaluate
from visor_jax.budget import Budget, BudgetSet
from visor_jax.evals.pages.benchmark import PROMPT_LENGTHS
from visor_jax.evals.recorder import Recorder
from visor_jax.inference.routing.cascade import Cascade

FIRST, SECOND = Budget.none(), Budget.all(page_run.CONFIG.plan)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    facts = {"train_steps": 1, "wall_clock_s": 1.0}
    return page_run.save(folder, page_run.parameters(), **facts)


@pytest.fixture
def made_up(monkeypatch):
    """Stands in for the network: its answers are right as often as it is sure."""

    def predict(network, benchmark, budgets, *, scored, progress=None):
        assert scored
        rng = np.random.default_rng(3)
        recorder = Recorder(network.config, budgets, benchmark)
        for example in benchmark.examples():
            number, sure = recorder.ask(example), rng.uniform(0.3, 1.0)
            for row, chance in enumerate((sure, 0.95)):
                answer = example.references[0] if rng.random() < chance else "bar"
                how = {"confidence": sure, "steps": 1}
                recorder.answer(number, example, row, answer, PROMPT_LENGTHS, **how)
        return recorder.predictions()

    monkeypatch.setattr(cascade, "predict", predict)


def run(arguments):
    with own_flags.defined(cascade):
        flags.FLAGS(["cascade", *arguments])
        cascade.main([])


def test_a_calibration_is_written_and_found(workdir, made_up, capsys):
    run([f"--checkpoint={workdir}", "--pages=4", "--agreement=0.9"])
    printed = capsys.readouterr().out
    content = json.loads((workdir / "cascade.json").read_text())
    measured = content["measured"]
    assert measured["wanted"] == {"agreement": 0.9, "cost": None}
    assert measured["benchmark"]["split"] == "policy"
    found = Cascade.of_name(content["cascade"], page_run.CONFIG.plan)
    assert found.budgets == (FIRST, SECOND)
    assert content["cascade"] in printed
    assert len(measured["curves"]) == 10
    assert {"easy", "hard", "ring"} <= set(measured["rows"])
    assert visor_jax.load(workdir).cascade() == found
    # Less is asked for: fewer are looked at again.
    less = cascade.calibrate_cascade(
        str(workdir), cascade.Wanted(agreement=0.7), pages=4
    )
    assert less.cascade.threshold < found.threshold
    assert visor_jax.load(workdir).cascade() == less.cascade
    cheap = cascade.calibrate_cascade(str(workdir), cascade.Wanted(cost=0.8), pages=4)
    costs = [cheap.rows[group]["cost"] for group in ("easy", "hard")]
    assert 0.7 < np.mean(costs) < 0.81


def test_wishes_that_cannot_be_are_told_before_anything_runs(workdir, tmp_path):
    for wanted, reason in (
        ({"agreement": 0.9, "cost": 0.5}, "two wishes for one threshold"),
        ({"agreement": 1.5}, "no share in 0..1"),
        ({"cost": 0.0}, "must be above 0"),
    ):
        with pytest.raises(ValueError, match=reason):
            cascade.Wanted(**wanted)
    assert cascade.Wanted().agreement == cascade.AGREEMENT
    for how, reason in (
        ({"first": "sa1:2"}, "not trained for budget 'sa1:2'"),
        ({"first": "all"}, "another budget than"),
        ({"first": "all", "second": "none"}, "turn them round"),
    ):
        with pytest.raises(ValueError, match=reason):
            cascade.calibrate_cascade(str(workdir), **how)
    saved = page_run.save(tmp_path, page_run.parameters(), budgets=["all"])
    with pytest.raises(ValueError, match="trained for"):
        cascade.calibrate_cascade(str(saved))


def test_a_wish_that_costs_more_than_it_may_is_refused(workdir, made_up):
    with pytest.raises(ValueError, match="the first look alone costs"):
        cascade.calibrate_cascade(str(workdir), cascade.Wanted(cost=0.01), pages=2)


def test_evaluate_takes_the_cascades_of_universal_networks(workdir, tmp_path):
    asked = evaluate.AskedBudgets()
    checkpoints = [evaluate.read_checkpoint(str(workdir), asked)]
    name = "cascade:sa0,sa2:1,2@0.5"
    (found,) = evaluate._cascades(checkpoints, name)
    assert found.name == name
    assert evaluate._cascades(checkpoints, None) == [None]
    dense = page_run.save(
        tmp_path,
        page_run.parameters(),
        label="stage:a",
        train_steps=1,
        wall_clock_s=1.0,
    )
    with pytest.raises(ValueError, match="is for universal networks"):
        evaluate._cascades([evaluate.read_checkpoint(str(dense), asked)], name)
    assert len(BudgetSet.parse(page_run.BUDGETS, page_run.CONFIG.plan)) == 3
