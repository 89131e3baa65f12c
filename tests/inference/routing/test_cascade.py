"""What a cascade is called, and where the plain one comes from."""

import dataclasses
import json

import pytest
from etils import epath

from visor_jax.budget import Budget, BudgetSet
from visor_jax.inference.routing.cascade import CASCADE, Cascade, is_cascade
from visor_jax.inference.routing.cascade_file import CascadeFile, calibrated
from visor_jax.layer_plan import LayerPlan
from visor_jax.runtime import atomic_write

PLAN = LayerPlan.build(7, cross=(0,), self_=(1, 3, 5))
BUDGETS = BudgetSet.parse("none,sa1:3,sa2:1,5,all", PLAN)


def test_names_are_read_as_they_are_written():
    for first, second in (("none", "all"), ("sa1:3", "sa2:1,5"), ("read", "sa2:1,5")):
        for threshold in (0.8, 1.0, 1 / 3, 5e-324):
            budgets = Budget.parse(first, PLAN), Budget.parse(second, PLAN)
            cascade = Cascade(*budgets, threshold)
            assert Cascade.of_name(cascade.name, PLAN) == cascade
            assert {cascade: 1}[Cascade(*budgets, threshold)] == 1
            assert is_cascade(cascade.name)
            assert is_cascade(cascade)
    found = Cascade.of_name("cascade:0,all@.8", PLAN)
    assert found.name == "cascade:sa0,sa3:1,3,5@0.8"
    assert Cascade.of_name("cascade:sa2:1,5,all@1", PLAN).first.self_layers == (1, 5)
    for other in ("auto", "sa0", None, 3, Budget.none(), "cascades"):
        assert not is_cascade(other)


def test_what_lies_below_the_threshold_is_looked_at_again():
    cascade = Cascade.of_name("cascade:sa0,all@0.8", PLAN)
    looked = [cascade.looks_again(each) for each in (0.1, 0.7999, 0.8, 1.0)]
    assert looked == [True, True, False, False]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cascade:sa0,all@0", r"threshold=0\.0 must lie above 0 and up to 1"),
        ("cascade:sa0,all@1.5", r"threshold=1\.5 must lie above 0 and up to 1"),
        ("cascade:sa0,all@-1", "above 0 and up to 1"),
        ("cascade:sa0,all@inf", "above 0 and up to 1"),
        ("cascade:sa0,all@nan", "'nan' of .* is no number"),
        ("cascade:sa0,all@high", "'high' of .* is no number"),
        ("cascade:sa0,all", "is no cascade: write 'cascade:FIRST,SECOND@THRESHOLD'"),
        ("cascade:sa0@0.8", "is no cascade"),
        ("cascade:sa0,sa1:3,all@0.8", "is no cascade"),
        ("sa0,all@0.8", "is no cascade"),
        ("cascade", "is no cascade"),
        ("cascade:all,all@0.8", "another budget than sa3:1,3,5"),
        ("cascade:all,sa0@0.8", "turn them round"),
        ("cascade:sa0,sa1:2@0.8", r"switches on layers \[2\]"),
        # It opens no files: a request may be a stranger's.
        ("cascade:sa0,@file.json@0.8", "Unknown budget '@file.json'"),
    ],
)
def test_what_is_none_is_refused(name, reason):
    with pytest.raises(ValueError, match=reason):
        Cascade.of_name(name, PLAN)


def test_budgets_that_were_not_trained_are_refused():
    with pytest.raises(ValueError, match="not trained for budget 'sa1:1'"):
        Cascade.of_name("cascade:sa1:1,all@0.5", PLAN).check(BUDGETS)
    alone = BudgetSet.parse("all", PLAN)
    with pytest.raises(ValueError, match=r"was trained for sa3:1,3,5 alone"):
        Cascade.of_name("cascade:sa0,all@0.5", PLAN).check(alone)
    with pytest.raises(ValueError, match=r"was trained for sa3:1,3,5 alone"):
        calibrated(None, alone)


def test_the_plain_one_is_that_beside_the_checkpoint(tmp_path):
    file = CascadeFile.beside(tmp_path / "checkpoints/7")
    assert file == CascadeFile(epath.Path(tmp_path / "cascade.json"), 7)
    how = r"visor_jax\.cascade --checkpoint=.*'cascade:sa0,sa3:1,3,5@0\.8'"
    with pytest.raises(ValueError, match=f"is not there.*{how}"):
        calibrated(file, BUDGETS)
    with pytest.raises(ValueError, match="not a run's: name budgets and threshold"):
        calibrated(None, BUDGETS)
    cascade = Cascade(Budget.none(), Budget.all(PLAN), 0.123456789012345678)
    atomic_write.write_json(file.path, file.content(cascade, {"n": 3}))
    assert calibrated(file, BUDGETS) == cascade
    assert json.loads(file.path.read_text())["measured"] == {"n": 3}
    with pytest.raises(ValueError, match=f"at step 7, and this is step 8: .*{how}"):
        calibrated(dataclasses.replace(file, step=8), BUDGETS)
    for content in ("{", "[]", '{"cascade": 3, "step": 7}', '{"step": 7}'):
        file.path.write_text(content)
        with pytest.raises(ValueError, match=f"holds no cascade.*{how}"):
            calibrated(file, BUDGETS)
    other = BudgetSet.parse("none,sa1:3", PLAN)
    file.path.write_text(json.dumps(file.content(cascade, {})))
    with pytest.raises(ValueError, match="holds no cascade of this network"):
        calibrated(file, other)
    assert CASCADE == "cascade"
