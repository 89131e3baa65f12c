"""READ: text looks at the image in a layer's own attention, the image stays frozen."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.models import numpy_reference
from tests.models.test_gates import assert_trees_close, inputs
from tests.models.test_reference import assert_text_close
from tests.models.training_loss import gradient_static, gradient_traced
from tests.tolerances import GRADIENT, REFERENCE
from visor_jax.budget import Budget, BudgetSet
from visor_jax.layer_plan import READ, LayerPlan

LEVELS = {False: 0, READ: 1, True: 2}


def traced(gates):
    return jnp.array([LEVELS[gate] for gate in gates], jnp.int32)


def test_every_position_of_every_gate_is_that_of_the_reference():
    config = tiny.VISOR
    params, batch = tiny.params_of(config), tiny.random_batch(config, seed=3)
    seen = []
    for gates in itertools.product((False, READ, True), repeat=2):
        output = tiny.forward_traced(params, batch, traced(gates), config=config)
        expected = numpy_reference.forward(params, config, batch, gates)
        assert_text_close(batch, output.logits, expected, REFERENCE)
        seen.append(expected[0].logits)
    # They do differ: agreement above means something.
    for one, other in itertools.combinations(seen, 2):
        assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("gates", [(READ, True), (True, READ), (READ, False)], ids=str)
def test_static_positions_are_those_of_the_reference(gates):
    config = tiny.VISOR
    params, batch = tiny.params_of(config), tiny.random_batch(config)
    output = tiny.forward_static(params, batch, config=config, gates=gates)
    expected = numpy_reference.forward(params, config, batch, gates)
    assert_text_close(batch, output.logits, expected, REFERENCE)


def test_a_dense_network_that_reads_is_one_with_a_frozen_image():
    """By gate and by kind of layer: the same weights, the same numbers."""
    dense = tiny.NETWORKS["dense"]
    plan = LayerPlan.build(3, read=range(3))
    params, batch = tiny.params_of(dense), tiny.random_batch(dense)
    gates = Budget.reading(dense.plan).gates(dense.plan)
    by_gate = tiny.forward_static(params, batch, config=dense, gates=gates)
    by_kind = tiny.forward_static(
        params, batch, config=dense.replace(plan=plan), gates=()
    )
    np.testing.assert_array_equal(by_gate.logits, by_kind.logits)
    expected = numpy_reference.forward(params, dense, batch, gates)
    assert_text_close(batch, by_gate.logits, expected, REFERENCE)
    # The reference really freezes it.
    for row, result in enumerate(expected):
        if batch.image_mask[row].any():
            first, *later = result.image_after
            for after in later:
                np.testing.assert_array_equal(first, after)


@pytest.mark.parametrize("remat", ["none", "layer"])
@pytest.mark.parametrize("gate", [True, READ, False], ids=str)
def test_gradients_through_static_and_traced_positions(remat, gate):
    config = tiny.NETWORKS["grouped"].replace(remat=remat)
    params, batch = inputs(config)
    static = gradient_static(params, batch, gates=(gate,), config=config)
    found = gradient_traced(params, batch, traced([gate]), config=config)
    assert_trees_close(static, found, GRADIENT)


def test_a_layer_may_not_be_of_two_kinds():
    with pytest.raises(ValueError, match=r"layers \[1\] are both SELF and READ"):
        LayerPlan.build(3, self_=(1,), read=(1, 2))
    assert LayerPlan.build(3, read=(2,)).trunk_length == 3
    assert LayerPlan.build(3, self_=(1,), read=(0, 2)).trunk_length == 1


def test_a_plan_that_reads_has_one_budget():
    plan = LayerPlan.build(3, read=(0, 1, 2))
    assert BudgetSet.parse(None, plan).names == ("sa0",)
