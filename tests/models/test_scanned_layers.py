"""Layers as a scan: what repeats in a plan, the same numbers, real conditionals."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from tests.models.training_loss import gradient_traced, loss
from tests.tolerances import BFLOAT16, GRADIENT, REORDERED
from visor_jax.layer_plan import LayerKind, LayerPlan
from visor_jax.models.stacked_layers import is_scanned
from visor_jax.models.variants import dense, variant
from visor_jax.settings.model_settings import ModelSettings

PLANS = {
    # CTS, CTS, CTT and a tail: a TEXT layer in the place of a SELF layer.
    "visor": LayerPlan.build(10, cross=(0, 3, 6), self_=(2, 5)),
    # Nobody reads what the last layer makes of the image: it is not like the others.
    "dense": LayerPlan.dense(4),
    "read": LayerPlan.build(5, read=(0, 2, 4), self_=(1, 3)),
}


def network(name, **changes):
    return tiny.VISOR.replace(plan=PLANS[name], **changes)


def letters(kinds):
    return "".join(kind.name[0] for kind in kinds)


@functools.cache
def inputs(name):
    config = network(name)
    return tiny.params_of(config), tiny.on_device(tiny.random_batch(config))


def gates_of(name, pattern):
    count = len(PLANS[name].self_layers)
    return jnp.asarray(np.resize(pattern, count))


@pytest.mark.parametrize(
    ("plan", "kinds", "count", "rest"),
    [
        (variant("llava_ov_0p5b").plan, "CTS", 8, 0),
        (variant("llava_ov_7b").plan, "CTS", 9, 1),
        (dense(variant("llava_ov_0p5b")).plan, "S", 23, 1),
        (PLANS["visor"], "CTS", 3, 1),
        (PLANS["read"], "RS", 2, 1),
        (LayerPlan.build(4, cross=(0,), self_=(1,)), "T", 2, 0),
    ],
)
def test_what_repeats_in_a_plan(plan, kinds, count, rest):
    # The last case repeats behind the layers that do not.
    start = 2 if kinds == "T" else 0
    found = plan.repeated(start, plan.num_layers)
    assert (letters(found.kinds), found.count) == (kinds, count)
    assert plan.num_layers - found.stop == rest
    for place, kind in enumerate(found.kinds):
        stand_there = {plan.kinds[i] for i in found.column(place)}
        assert stand_there <= {kind, LayerKind.TEXT if kind.is_gated else kind}


def test_nothing_repeats_where_every_layer_is_another():
    plan = LayerPlan.build(4, cross=(0,), self_=(1,), read=(2,))
    assert plan.repeated(0, 4) is None
    assert plan.repeated(0, 1) is None


@pytest.mark.parametrize(("name", "remat"), [("visor", "layer"), ("dense", "none")])
def test_losses_and_gradients_are_those_of_the_layers_written_out(name, remat):
    params, batch = inputs(name)
    for pattern in ([False], [True, False], [True]):
        gates = gates_of(name, pattern)
        expected = gradient_traced(params, batch, gates, config=network(name))
        config = network(name, remat=remat, scan_layers="on")
        actual = gradient_traced(params, batch, gates, config=config)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, **GRADIENT), actual, expected
        )
        np.testing.assert_allclose(actual[0], expected[0], **REORDERED)


def test_gates_with_a_middle_position():
    params, batch = inputs("read")
    gates = gates_of("read", [1, 2])
    expected = tiny.forward_traced(params, batch, gates, config=network("read"))
    config = network("read", scan_layers="on")
    actual = tiny.forward_traced(params, batch, gates, config=config)
    np.testing.assert_allclose(actual.logits, expected.logits, **REORDERED)


def test_gates_of_a_policy_blend_sample_by_sample():
    params, batch = inputs("visor")
    gates = jax.random.uniform(jax.random.key(0), (batch.size, 2))

    def gradient(scan):
        config = network("visor", scan_layers=scan)
        return jax.jit(jax.grad(loss, argnums=2), static_argnums=3)(
            params, batch, gates, config
        )

    np.testing.assert_allclose(gradient("on"), gradient("off"), **GRADIENT)
    # Both gates matter; not to every row: some have no image.
    assert np.abs(gradient("on")).max(axis=0).min() > 1e-2


def test_kernels_are_stacked_in_the_type_that_layers_compute_in():
    params, batch = inputs("visor")
    gates = gates_of("visor", [True, False])
    config = network("visor", compute_dtype="bfloat16")
    expected = tiny.forward_traced(params, batch, gates, config=config).logits
    config = config.replace(scan_layers="on")
    actual = tiny.forward_traced(params, batch, gates, config=config).logits
    np.testing.assert_allclose(
        *(x / np.abs(expected).max() for x in (actual, expected)), **BFLOAT16
    )


def test_ten_steps_end_where_the_layers_written_out_end():
    params, batch = inputs("visor")
    optimizer = optax.adam(1e-3)

    def losses(scan):
        config = network("visor", scan_layers=scan)

        @jax.jit
        def step(params, state, gates):
            value, grads = jax.value_and_grad(loss)(params, batch, gates, config)
            updates, state = optimizer.update(grads, state)
            return optax.apply_updates(params, updates), state, value

        now, state, values = params, optimizer.init(params), []
        for index in range(10):
            gates = gates_of("visor", [index % 2 == 0, index % 3 == 0])
            now, state, value = step(now, state, gates)
            values.append(value)
        return np.asarray(values)

    np.testing.assert_allclose(losses("on"), losses("off"), rtol=1e-6, atol=1e-6)


def count(lowered, word):
    return len(re.findall(rf" {word}\(", lowered.compile().as_text()))


def test_one_conditional_for_each_place_of_a_repetition():
    params, batch = inputs("visor")
    gates = gates_of("visor", [True, False])
    for scan, expected in (("off", 2), ("on", 1)):
        config = network("visor", scan_layers=scan)
        lowered = tiny.forward_traced.lower(params, batch, gates, config=config)
        assert count(lowered, "conditional") == expected


def test_the_backward_pass_keeps_its_conditionals():
    params, batch = inputs("visor")
    config = network("visor", scan_layers="on", remat="layer")
    gates = gates_of("visor", [True, False])
    lowered = gradient_traced.lower(params, batch, gates, config=config)
    assert count(lowered, "conditional") in (2, 3)


def test_static_gates_and_what_remembers_are_written_out():
    params, batch = inputs("visor")
    gates = (True, False)
    for scan in ("on", "off"):
        config = network("visor", scan_layers=scan)
        lowered = tiny.forward_static.lower(params, batch, config=config, gates=gates)
        assert ("stablehlo.while" in lowered.as_text()) == (scan == "on")  # the tower
        output = tiny.forward_static(params, batch, config=config, gates=gates)
        if scan == "on":
            expected = output.logits
    np.testing.assert_allclose(output.logits, expected, **REORDERED)


def test_training_scans_on_accelerators_and_loaded_networks_never():
    assert ModelSettings(variant="mini").build().scan_layers == "auto"
    assert not is_scanned("auto")  # a CPU
    config = network("visor", scan_layers="on")
    assert type(config).from_dict(config.to_dict()).scan_layers == "off"
    with pytest.raises(ValueError, match="scan_layers='yes'"):
        config.replace(scan_layers="yes")
