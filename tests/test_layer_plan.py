import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given

from visor_jax.layer_plan import READ, LayerKind, LayerPlan

PLANS = st.lists(st.sampled_from(LayerKind), min_size=1, max_size=12).map(
    lambda kinds: LayerPlan(tuple(kinds))
)


@given(PLANS)
def test_build_gives_back_the_plan(plan):
    built = LayerPlan.build(
        plan.num_layers,
        cross=plan.cross_layers,
        self_=plan.self_layers,
        read=plan.read_layers,
    )
    assert built == plan
    assert hash(built) == hash(plan)


@given(PLANS)
def test_every_layer_is_of_one_kind(plan):
    layers = range(plan.num_layers)
    text = [i for i in layers if plan.kinds[i] is LayerKind.TEXT]
    kinds = (text, plan.cross_layers, plan.self_layers, plan.read_layers)
    assert sorted(itertools.chain(*kinds)) == list(layers)
    named = plan.layers_by_kind
    assert sorted(itertools.chain(*named.values())) == list(layers)
    assert all(plan.kinds[i].name == k for k, found in named.items() for i in found)
    assert plan.is_dense == (plan == LayerPlan.dense(plan.num_layers))


@given(PLANS, st.data())
def test_image_is_read_by_later_cross_read_and_open_self_layers(plan, data):
    gate = st.sampled_from([True, False, READ, "traced"])
    gates = [data.draw(gate) for _ in plan.self_layers]
    on = dict(zip(plan.self_layers, gates, strict=True))
    for layer in range(plan.num_layers):
        later = range(layer + 1, plan.num_layers)
        readers = [
            i
            for i in later
            if plan.kinds[i] in (LayerKind.CROSS, LayerKind.READ)
            or (plan.kinds[i] is LayerKind.SELF and on[i] is not False)
        ]
        assert plan.image_is_read_after(layer, gates) == bool(readers)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"cross": (4,)}, r"CROSS layers \[4\] are not in 0\.\.3"),
        ({"self_": (-1,)}, r"SELF layers \[-1\] are not in 0\.\.3"),
        ({"cross": (1, 2), "self_": (2, 3)}, r"layers \[2\] are both .*choose one"),
        ({"self_": (1, 1)}, r"SELF layers \[1\] are listed repeatedly"),
        ({"cross": range(5)}, "5 CROSS layers do not fit 4 layers"),
    ],
)
def test_impossible_plans_are_named(layers, message):
    with pytest.raises(ValueError, match=message):
        LayerPlan.build(4, **layers)


def test_all_problems_are_named_at_once():
    with pytest.raises(ValueError, match=r"\[7\].*\[9\].*\[1\] are both"):
        LayerPlan.build(4, cross=(1, 7), self_=(1, 9))


def test_plan_without_layers_is_refused():
    with pytest.raises(ValueError, match="at least one layer"):
        LayerPlan(())


def test_plan_takes_kinds_only():
    with pytest.raises(ValueError, match="LayerKind values"):
        LayerPlan(("self",))


def test_trunk_ends_before_the_first_self_layer():
    assert LayerPlan.build(6, cross=(0, 3), self_=(2, 5)).trunk_length == 2
    assert LayerPlan.dense(6).trunk_length == 0
    assert LayerPlan.build(6, cross=(0,)).trunk_length == 6
