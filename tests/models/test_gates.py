"""Static and traced gates are the same network, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import passes, tiny
from tests.models.training_loss import gradient_static, gradient_traced
from tests.tiny import NETWORKS
from tests.tolerances import GRADIENT, REORDERED
from visor_jax.models.vlm import VLM, begin_batch
from visor_jax.ops.gating import as_sequence

# CROSS, SELF, CROSS: the smallest network with a gradient through everything.
SMALL = NETWORKS["grouped"]


def inputs(config):
    return tiny.params_of(config), tiny.on_device(tiny.random_batch(config))


def assert_trees_close(one, other, tolerance):
    pairs = zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True)
    for (path, x), y in pairs:
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(x, y, **tolerance, err_msg=where)


@pytest.mark.parametrize("name", ["visor", "unread_self"])
def test_static_gates_give_what_traced_gates_give(name):
    config = NETWORKS[name]
    params, batch = inputs(config)
    mask = np.asarray(batch.text_mask)
    for budget in list(tiny.every_budget(config))[:4]:
        gates = budget.gates(config.plan)
        static = tiny.forward_static(params, batch, config=config, gates=gates)
        traced = tiny.forward_traced(params, batch, jnp.array(gates), config=config)
        np.testing.assert_allclose(
            np.asarray(static.logits)[mask],
            np.asarray(traced.logits)[mask],
            **REORDERED,
        )


@pytest.mark.parametrize("remat", ["none", "layer"])
@pytest.mark.parametrize("gate", [True, False])
def test_gradients_through_static_and_traced_gates(remat, gate):
    config = SMALL.replace(remat=remat)
    params, batch = inputs(SMALL)
    static = gradient_static(params, batch, gates=(gate,), config=config)
    traced = gradient_traced(params, batch, jnp.array([gate]), config=config)
    assert_trees_close(static, traced, GRADIENT)


def test_layer_remat_changes_neither_loss_nor_gradients():
    params, batch = inputs(SMALL)
    gates = jnp.array([True])
    plain = gradient_traced(params, batch, gates, config=SMALL)
    again = gradient_traced(params, batch, gates, config=SMALL.replace(remat="layer"))
    assert_trees_close(plain, again, GRADIENT)


def test_image_gets_no_gradient_if_no_layer_reads_it():
    config = SMALL.replace(plan=tiny.LayerPlan.dense(2))
    params, batch = inputs(config)
    _, gradient = gradient_traced(params, batch, jnp.zeros(2, bool), config=config)
    gradient = gradient["params"]
    for name in ("vision_tower", "multi_modal_projector", "image_newline"):
        assert not any(np.any(x) for x in jax.tree.leaves(gradient[name]))
    mlp = gradient["language_model"]["layers_0"]["mlp"]
    assert np.any(mlp["up_proj"]["kernel"])


def test_new_adapters_learn_although_their_output_is_zero():
    params = jax.tree.map_with_path(
        lambda path, x: 0 * x if "cross" in str(path) and "o_proj" in str(path) else x,
        tiny.params_of(SMALL),
    )
    batch = tiny.on_device(tiny.random_batch(SMALL))
    _, gradient = gradient_traced(params, batch, jnp.array([False]), config=SMALL)
    for layer in SMALL.plan.cross_layers:
        adapter = gradient["params"]["language_model"][f"layers_{layer}"]
        assert np.any(adapter["cross_attention"]["o_proj"]["kernel"])


@pytest.mark.parametrize(
    "gates",
    [(True,), (True, False, True), (), (1, 0), np.ones((2, 4), bool), np.ones(2)],
    ids=str,
)
def test_static_gates_must_be_one_bool_per_self_layer(gates):
    with pytest.raises(ValueError, match="must be 2 bools, one per SELF layer"):
        as_sequence(gates, 2)


def test_a_row_of_the_gate_table_is_as_static_as_a_tuple():
    assert as_sequence(np.array([True, False]), 2) == (True, False)
    assert all(type(g) is bool for g in as_sequence(np.array([True, False]), 2))


def test_a_captured_layer_counts_as_a_reader():
    config = tiny.NETWORKS["unread_self"]
    params, batch = inputs(config)

    def last_layers(params, batch):
        def run(model):
            begun = begin_batch(model, batch)
            return model.run(begun, tiny.all_on(config), capture=(2, 3))[1]

        return VLM(config).apply(params, method=run)

    captured = jax.jit(last_layers)(params, batch)
    assert np.any(captured[2].hidden != captured[3].hidden)


def test_a_cache_is_refused_for_traced_gates():
    params, batch = inputs(SMALL)
    run = jax.jit(lambda g: VLM(SMALL).apply(params, batch, g, method=passes.prefill))
    with pytest.raises((ValueError, TypeError), match=r"static gates|Sequence\[bool\]"):
        run(jnp.array([True]))
