"""The budgets of a file: all of them, or the best within a cost."""

import json

import pytest

from visor_jax.budget import BudgetSet
from visor_jax.layer_plan import LayerPlan

PLAN = LayerPlan.dense(3)
SCORES = [("sa0", 10, 0.1), ("sa0+rd3:0,1,2", 40, 0.5), ("sa1:0+rd1:2", 60, 0.4)]
SCORES += [("sa2:0,1+rd1:2", 70, 0.8), ("sa3:0,1,2", 100, 0.9)]


def write(file, plan=PLAN, /, **changes):
    content = {
        "plan": [kind.value for kind in plan.kinds],
        # All but the one that costs more and scores less.
        "budgets": [name for name, cost, _ in SCORES if cost != 60],
        "scores": [{"budget": n, "cost": c, "score": s} for n, c, s in SCORES],
        **changes,
    }
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize(
    ("cost", "name"),
    [("1", "sa3:0,1,2"), ("0.7", "sa2:0,1+rd1:2"), ("0.69", "sa0+rd3:0,1,2")],
)
def test_the_best_within_a_cost_is_found(tmp_path, cost, name):
    budgets = BudgetSet.parse("all", PLAN)
    file = write(tmp_path / "a:b.json")
    # Nobody trained for it, and it is found all the same.
    assert budgets.find(f"@{file}:{cost}").name == name
    with pytest.raises(ValueError, match="not trained for"):
        budgets.find("sa0")


def test_all_of_a_file_are_a_list(tmp_path):
    file = write(tmp_path / "found.json")
    found = BudgetSet.parse(f"@{file}", PLAN)
    assert found.names == tuple(name for name, cost, _ in SCORES if cost != 60)


def test_what_cannot_be_is_said_with_the_remedy(tmp_path):
    budgets = BudgetSet.parse("all", PLAN)
    file = write(tmp_path / "found.json")
    with pytest.raises(ValueError, match=r"costs 0\.05 of the dearest.*costs 0\.1"):
        budgets.find(f"@{file}:0.05")
    for form in (f"@{file}", f"@{file}:half", f"@{file}:-1", "@"):
        with pytest.raises(ValueError, match=r"write '@FILE:0\.4'"):
            budgets.find(form)
    other = write(tmp_path / "other.json", LayerPlan.build(3, self_=(1,)))
    with pytest.raises(ValueError, match=r"another layer plan: .*SELF layers \[1\]"):
        budgets.find(f"@{other}:1")
    more = write(tmp_path / "more.json", LayerPlan.build(3, self_=(1,), read=(2,)))
    with pytest.raises(ValueError, match=r"READ layers \[2\].* there, .*in this"):
        BudgetSet.parse("all", LayerPlan.build(3, self_=(1,))).find(f"@{more}:1")
    with pytest.raises(ValueError, match=r"gone\.json holds no budgets"):
        budgets.find(f"@{tmp_path}/gone.json:1")
    damages = [{"scores": [{"budget": "sa0"}]}, {"scores": []}, {"budgets": []}]
    damages += [{"budgets": "sa0"}, {"budgets": [0]}, {"plan": []}]
    for damage in damages:
        broken = write(tmp_path / "broken.json", **damage)
        with pytest.raises(ValueError, match=r"broken\.json holds no budgets .*sweep"):
            budgets.find(f"@{broken}:1")
        if "scores" not in damage:
            with pytest.raises(ValueError, match=r"broken\.json holds no budgets"):
                BudgetSet.parse(f"@{broken}", PLAN)
