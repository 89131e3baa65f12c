"""What the compiler keeps of the gates, read in its own output."""

import re

import jax
import jax.numpy as jnp
import pytest

from tests import tiny
from tests.models.training_loss import gradient_traced
from tests.tiny import NETWORKS
from visor_jax.models.vlm import VLM

# TEXT, SELF, SELF, CROSS.
CONFIG = tiny.VISOR.replace(plan=tiny.LayerPlan.build(4, cross=(3,), self_=(1, 2)))


@pytest.fixture(scope="module", autouse=True)
def cheap_compilation():
    """These programs are compiled as in production."""


def inputs(config):
    return tiny.params_of(config), tiny.on_device(tiny.random_batch(config))


def conditionals(lowered):
    return len(re.findall(r" conditional\(", lowered.compile().as_text()))


@pytest.mark.parametrize("remat", ["none", "layer"])
def test_one_conditional_for_each_self_layer(remat):
    config = CONFIG.replace(remat=remat)
    gates = jnp.array([True, False])
    lowered = tiny.forward_traced.lower(*inputs(CONFIG), gates, config=config)
    assert conditionals(lowered) == 2


def test_one_conditional_of_three_branches_where_layers_may_read():
    lowered = tiny.forward_traced.lower(
        *inputs(CONFIG), jnp.array([2, 1]), config=CONFIG
    )
    text = lowered.compile().as_text()
    found = re.findall(r" conditional\(.*branch_computations={([^}]*)}", text)
    assert [len(branches.split(",")) for branches in found] == [3, 3]


def test_training_step_keeps_the_conditionals_forward_and_backward():
    config = CONFIG.replace(remat="layer")
    gates = jnp.array([True, False])
    assert (
        conditionals(gradient_traced.lower(*inputs(CONFIG), gates, config=config)) >= 4
    )


def test_static_program_holds_no_conditional():
    lowered = tiny.forward_static.lower(
        *inputs(CONFIG), config=CONFIG, gates=(True, False)
    )
    assert conditionals(lowered) == 0


def test_gates_under_vmap_would_leave_no_conditional():
    """Why samples are grouped by budget: under vmap both branches run."""
    config = NETWORKS["untied"]
    params, batch = inputs(config)

    def one_sample(sample, gates):
        sample = sample.map(lambda x: x[None])
        return VLM(config).apply(params, sample, gates).logits

    program = jax.jit(jax.vmap(one_sample))
    text = program.lower(batch, jnp.ones((batch.size, 1), bool)).as_text()
    assert "stablehlo.select" in text
    assert "stablehlo.case" not in text
    assert "stablehlo.if" not in text
