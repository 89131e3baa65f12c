import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from visor_jax.budget import Budget, BudgetSet
from visor_jax.layer_plan import READ, LayerKind, LayerPlan

PLANS = st.lists(st.sampled_from(LayerKind), min_size=1, max_size=30).map(
    lambda kinds: LayerPlan(tuple(kinds))
)
PLAN = LayerPlan.build(20, cross=(0, 9), self_=(2, 8, 16))


@st.composite
def plans_and_budgets(draw):
    plan = draw(PLANS)
    drawn = {i: draw(st.sampled_from([False, READ, True])) for i in plan.self_layers}
    return plan, Budget(
        tuple(i for i, gate in drawn.items() if gate is True),
        tuple(i for i, gate in drawn.items() if gate is READ),
    )


@given(plans_and_budgets())
def test_name_round_trip(plan_and_budget):
    plan, budget = plan_and_budget
    assert Budget.parse(budget.name, plan) == budget
    assert str(budget) == budget.name
    assert hash(Budget.parse(budget.name, plan)) == hash(budget)


@given(plans_and_budgets())
def test_gates_say_which_self_layers_run(plan_and_budget):
    plan, budget = plan_and_budget
    gates = budget.gates(plan)
    assert all(type(gate) is bool or gate is READ for gate in gates)
    for value, layers in ((True, budget.self_layers), (READ, budget.read_layers)):
        on = [
            i for i, gate in zip(plan.self_layers, gates, strict=True) if gate is value
        ]
        assert tuple(on) == layers


@given(PLANS.flatmap(lambda plan: st.tuples(st.just(plan), st.data())))
def test_lists_of_names_come_apart_where_they_were_joined(plan_and_data):
    plan, data = plan_and_data
    kinds = st.sampled_from([False, READ, True])
    budgets = []
    for _ in range(data.draw(st.integers(1, 4))):
        drawn = [(i, data.draw(kinds)) for i in plan.self_layers]
        budget = Budget(
            tuple(i for i, gate in drawn if gate is True),
            tuple(i for i, gate in drawn if gate is READ),
        )
        budgets += [budget] * (budget not in budgets)
    joined = ",".join(budget.name for budget in budgets)
    assert BudgetSet.parse(joined, plan).budgets == tuple(budgets)


def test_layers_that_read_have_their_part_of_the_name():
    budget = Budget((2,), (8, 16))
    assert budget.name == "sa1:2+rd2:8,16"
    assert Budget.parse("read", PLAN).name == "sa0+rd3:2,8,16"
    assert Budget.of_name("sa0+rd1:8") == Budget((), (8,))
    assert budget.gates(PLAN) == (True, READ, READ)
    found = BudgetSet.parse("sa1:2+rd2:8,16,none,sa2:2,8+rd1:16,1", PLAN)
    assert found.names == ("sa1:2+rd2:8,16", "sa0", "sa2:2,8+rd1:16", "sa1:8")
    assert found.gate_table().tolist() == [[2, 1, 1], [0, 0, 0], [2, 2, 1], [0, 2, 0]]
    assert BudgetSet.parse("none,1", PLAN).gate_table().dtype == bool
    assert found.largest.name == "sa2:2,8+rd1:16"
    with pytest.raises(ValueError, match=r"layers \[8\] are on and read"):
        Budget((8,), (8, 16))
    with pytest.raises(ValueError, match="says 2 SELF layers but lists 1"):
        Budget.parse("sa0+rd2:8", PLAN)
    with pytest.raises(ValueError, match=r"switches on layers \[9\]"):
        Budget.parse("sa1:2+rd1:9", PLAN)


@given(st.text(max_size=12))
def test_any_other_name_is_one_clear_error(name):
    try:
        budget = Budget.parse(name, PLAN)
    except ValueError as error:
        assert "budget" in str(error).lower()  # noqa: PT017  Both outcomes are fine.
    else:
        assert set(budget.self_layers) <= set(PLAN.self_layers)


def test_names():
    assert Budget.none().name == "sa0"
    assert Budget((8, 16)).name == "sa2:8,16"
    assert Budget.parse("none", PLAN) == Budget.parse("sa0", PLAN) == Budget()
    assert Budget.parse("all", PLAN) == Budget.all(PLAN) == Budget((2, 8, 16))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("half", r"Unknown budget 'half': write 'none', 'all', .*'sa2:2,8'"),
        ("", "Unknown budget ''"),
        ("sa2:8", "'sa2:8' says 2 SELF layers but lists 1"),
        ("sa3", "'sa3' says 3 SELF layers but lists 0"),
        ("sa1:9", r"'sa1:9' switches on layers \[9\], but .* are \[2, 8, 16\]"),
        ("sa2:16,8", r"ascend without repeats, got \(16, 8\)"),
        ("sa2:8,8", r"ascend without repeats, got \(8, 8\)"),
        ("SA1:8", "Unknown budget 'SA1:8'"),
        ("sa1: 8", "Unknown budget 'sa1: 8'"),
        ("sa1:-8", "Unknown budget 'sa1:-8'"),
    ],
)
def test_wrong_names_are_refused_with_the_remedy(name, message):
    with pytest.raises(ValueError, match=message):
        Budget.parse(name, PLAN)


def test_a_number_is_so_many_layers_spread_over_the_depth():
    plan = LayerPlan.build(24, self_=(2, 5, 8, 11, 14, 17, 20))
    budgets = [Budget.parse(str(n), plan) for n in range(8)]
    assert [len(b.self_layers) for b in budgets] == list(range(8))
    # The middle one, the middles of both halves, all.
    assert budgets[1].self_layers == (11,)
    assert budgets[2].self_layers == (5, 17)
    assert budgets[7] == Budget.all(plan)
    with pytest.raises(ValueError, match=r"of 8 SELF layers does not fit.* has 7, \[2"):
        Budget.parse("8", plan)


def test_gates_for_another_plan_are_refused():
    with pytest.raises(ValueError, match=r"layers \[8, 16\].*are \[2\]"):
        Budget((2, 8, 16)).gates(LayerPlan.build(20, self_=(2,)))


def test_every_names_all_subsets_once_cheapest_first():
    budgets = BudgetSet.parse(["every"], PLAN)
    assert len(set(budgets)) == len(budgets) == 8
    sizes = [len(b.self_layers) for b in budgets]
    assert sizes == sorted(sizes)
    assert budgets.smallest == Budget.none()
    assert budgets.largest == Budget.all(PLAN)


def test_every_is_refused_where_it_would_be_many():
    with pytest.raises(ValueError, match="16777216 budgets: list the names"):
        BudgetSet.parse(["every"], LayerPlan.dense(24))


@st.composite
def plans_and_sets(draw):
    plan = draw(PLANS)
    on = st.tuples(*(st.booleans() for _ in plan.self_layers))
    gates = draw(st.lists(on, min_size=1, max_size=6, unique=True))
    budgets = tuple(
        Budget(tuple(i for i, gate in zip(plan.self_layers, row, strict=True) if gate))
        for row in gates
    )
    return plan, budgets


@given(plans_and_sets())
def test_names_with_commas_between_them_are_the_set(plan_and_budgets):
    plan, budgets = plan_and_budgets
    names = [budget.name for budget in budgets]
    assert BudgetSet.parse(",".join(names), plan).budgets == budgets
    assert BudgetSet.parse(iter(names), plan).budgets == budgets


def test_a_list_mixes_everything_that_stands_for_budgets(tmp_path):
    file = tmp_path / "viable.json"
    kinds = [kind.value for kind in PLAN.kinds]
    file.write_text(json.dumps({"plan": kinds, "budgets": ["sa1:2", "sa2:2,16"]}))
    mixed = f"none,sa2:8,16,@{file},1,all"
    names = ("sa0", "sa2:8,16", "sa1:2", "sa2:2,16", "sa1:8", "sa3:2,8,16")
    assert BudgetSet.parse(mixed, PLAN).names == names
    one_by_one = ("none", "sa2:8,16", f"@{file}", "1", "all")
    assert BudgetSet.parse(one_by_one, PLAN).names == names
    assert BudgetSet.parse("every", PLAN) == BudgetSet.parse(["every"], PLAN)
    assert len(BudgetSet.parse("every", PLAN)) == 8


def test_what_is_named_beside_a_file_is_taken_once(tmp_path):
    # As sweeps write them, the extremes among them.
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    kinds = [kind.value for kind in PLAN.kinds]
    for file, middle in zip(files, ("sa1:2", "sa2:2,16"), strict=True):
        scores = [("sa0", 1, 0), (middle, 4, 5), ("sa3:2,8,16", 10, 9)]
        content = {
            "plan": kinds,
            "budgets": [name for name, _, _ in scores],
            "scores": [{"budget": b, "cost": c, "score": s} for b, c, s in scores],
        }
        file.write_text(json.dumps(content))
    one, two = (f"@{file}" for file in files)
    for names, expected in {
        f"none,{one},2": ("sa0", "sa1:2", "sa3:2,8,16", "sa2:2,16"),
        f"{one},none": ("sa1:2", "sa3:2,8,16", "sa0"),
        f"{one},{two}": ("sa0", "sa1:2", "sa3:2,8,16", "sa2:2,16"),
        f"none,{one}:0.5": ("sa0", "sa1:2"),
        f"{one}:0.5,{two}": ("sa1:2", "sa0", "sa2:2,16", "sa3:2,8,16"),
    }.items():
        assert BudgetSet.parse(names, PLAN).names == expected
    with pytest.raises(ValueError, match=r"\['sa0'\] are listed more than once"):
        BudgetSet.parse(f"none,{one},sa0", PLAN)


def test_without_names_there_is_a_budget_of_every_size():
    assert BudgetSet.parse(None, PLAN).names == (
        *("sa0", "sa1:8", "sa2:2,16", "sa3:2,8,16"),
    )
    assert BudgetSet.parse(None, LayerPlan.build(3, cross=(1,))).names == ("sa0",)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("", "Unknown budget ''"),
        ("none,,all", "Unknown budget ''"),
        ("none,most", "Unknown budget 'most': write 'none', 'all', 'read'"),
        ("sa2:8,none", "'sa2:8' says 2 SELF layers but lists 1"),
        ("sa1:8,16", "A budget of 16 SELF layers does not fit: this network has 3"),
        ("sa2:8,9,all", r"'sa2:8,9' switches on layers \[9\]"),
        ("all,every", r"\['sa3:2,8,16'\] are listed more than once"),
        ("none,@gone.json", r"gone\.json holds no budgets .*visor_jax\.sweep"),
    ],
)
def test_wrong_lists_are_refused_with_the_remedy(names, message):
    with pytest.raises(ValueError, match=message):
        BudgetSet.parse(names, PLAN)


@given(st.permutations(["sa0", "sa1:2", "sa2:2,16", "all"]))
def test_index_is_the_place_in_the_list(names):
    budgets = BudgetSet.parse(names, PLAN)
    assert [b.name for b in budgets] == list(budgets.names)
    for place, budget in enumerate(budgets):
        assert budgets.index(budget) == place
        assert tuple(budgets.gate_table()[place]) == budget.gates(PLAN)
    assert budgets.gate_table().dtype == bool


def test_gate_table_of_a_plan_without_self_layers():
    plan = LayerPlan.build(3, cross=(1,))
    table = BudgetSet.parse(["none"], plan).gate_table()
    np.testing.assert_array_equal(table, np.zeros((1, 0), bool))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one budget"),
        (["none", "sa0"], r"Budgets \['sa0'\] are listed more than once"),
        (["sa0", "sa1:3"], r"'sa1:3' switches on layers \[3\]"),
    ],
)
def test_impossible_sets_are_named(names, message):
    with pytest.raises(ValueError, match=message):
        BudgetSet.parse(names, PLAN)


def test_index_of_a_budget_that_is_not_in_the_set():
    with pytest.raises(ValueError, match=r"'sa1:2' is not in this set \['sa0'\]"):
        BudgetSet.parse(["none"], PLAN).index(Budget((2,)))
