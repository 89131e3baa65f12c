"""Methods that are trained: their parameters, their steps, and whom they serve."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import passes, tiny, tolerances
from tests.flops import abstract_model
from tests.flops.jaxpr_flops import count_flops
from tests.inference.prompts import extended
from tests.token_reduction import pictures
from tests.token_reduction.pictures import PLAIN
from visor_jax.budget import Budget, BudgetSet
from visor_jax.flops.account import account
from visor_jax.flops.cache_bytes import cache_bytes
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.config import CompressorConfig, VLMConfig
from visor_jax.models.decoder.token_reducer import KEEP_ALL, selection_flops
from visor_jax.models.parameters import parameter_shapes
from visor_jax.models.vision.compressor import Compressor
from visor_jax.models.vlm import VLM
from visor_jax.ops.masks import TokenTags
from visor_jax.token_reduction.crops.visionzip import VisionZip
from visor_jax.token_reduction.pooled.m3 import M3
from visor_jax.token_reduction.registry import fitted, name_of, parse
from visor_jax.token_reduction.trained import (
    as_trained,
    check_one_reduction,
    drawn_in_training,
    own_reducer,
    reducer_for,
    to_train_with,
)
from visor_jax.training.objectives.budget_sampling import BudgetSchedule, SchedulePhase
from visor_jax.training.objectives.losses import cross_entropy
from visor_jax.training.objectives.universal_step import (
    ObjectiveSettings,
    make_universal_step,
)
from visor_jax.training.state import TrainState

PLAIN_CONFIG = pictures.CONFIG.replace(
    vision=dataclasses.replace(pictures.CONFIG.vision, num_layers=1),
    plan=LayerPlan.dense(1),
)
GATES = (True,)
TRAINED = ("visor_tr_packing", "ldpv2", "m3", "visionzip")
BATCH = tiny.on_device(pictures.batch_of(PLAIN[1:]))


def trained(name):
    return to_train_with(PLAIN_CONFIG, name)


@functools.cache
def loss_and_gradient(name):
    """Returns the parameters, the jitted loss with its gradient, and both of them."""
    config = trained(name)
    model, params = as_trained(config), tiny.params_of(config)
    weights = jax.random.normal(jax.random.key(0), (*BATCH.tokens.shape, 40))
    weights *= BATCH.text_mask[..., None]

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        return (model.apply(params, BATCH, GATES).logits * weights).sum() / 100

    return params, loss, loss(params)


@pytest.mark.parametrize("name", ["visor_tr_packing", "ldpv2"])
def test_gradients_reach_the_parameters_and_what_lies_before_them(name):
    params, loss, (_, grads) = loss_and_gradient(name)
    grads = grads["params"]
    own = grads["token_compressor"]
    for each in (own["kernel"], own["bias"], grads["image_newline"]):
        assert np.abs(each).max() > 0
    for part in ("vision_tower", "multi_modal_projector"):
        assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(grads[part])) or part
        assert np.abs(jax.tree.leaves(grads[part])[0]).max() > 0
    rng, step = np.random.default_rng(2), 1e-2
    way = rng.normal(size=own["kernel"].shape).astype(np.float32)
    way /= np.linalg.norm(way)

    def at(step):
        moved = {**params["params"]["token_compressor"]}
        moved["kernel"] = moved["kernel"] + step * way
        return loss({"params": {**params["params"], "token_compressor": moved}})[0]

    slope = (at(step) - at(-step)) / (2 * step)
    expected = float((own["kernel"] * way).sum())
    np.testing.assert_allclose(slope, expected, **tolerances.FINITE_DIFFERENCE)


def test_a_compressor_that_is_new_packs_by_the_mean():
    """...so that a run begins with what `visor_tr` would do, but for rows of three."""
    compressor = parse("visor_tr_packing:factor=3").compressor
    module = Compressor(compressor, 8, jnp.float32)
    slots = jax.random.normal(jax.random.key(1), (2, 4, 3, 8))
    found, params = module.init_with_output(jax.random.key(0), slots)
    np.testing.assert_allclose(found, slots.mean(axis=2), **tolerances.REORDERED)
    assert params["params"]["kernel"].shape == (3 * 8, 8)


@pytest.mark.parametrize("name", [*TRAINED[:3], "m3:tokens=3", "visor_tr"])
def test_flops_are_those_of_the_program(name):
    config = to_train_with(PLAIN_CONFIG, name.partition(":")[0])
    method = fitted(parse(name), config)
    lengths = {"text_tokens": 11, "image_tokens": 37, "crops": 3, "batch": 2}
    prompt = {each: lengths[each] for each in ("text_tokens", "image_tokens")}
    inputs = abstract_model.abstract_batch(config, **lengths)
    params = abstract_model.abstract_params(config, inputs)
    counted = count_flops(
        lambda p, b: VLM(config, method).apply({"params": p}, b, GATES).logits,
        *(params, inputs),
    )
    formula = account(
        config,
        Budget.all(config.plan),
        **lengths,
        image_lengths=method.image_lengths(37, 1),
        selection=selection_flops(method, config, **prompt),
    )
    assert formula.end_to_end == counted
    assert bool(formula.selection) == (config.compressor is not None)


def test_prefill_and_8_tokens_equal_the_forward_pass():
    """...and the cache has the bytes that it is said to have."""
    config, new = trained("ldpv2"), 8
    params, model = tiny.params_of(config), as_trained(config)
    tokens = np.random.default_rng(3).integers(0, 40, (BATCH.size, new), np.int32)
    batch = extended(jax.device_get(BATCH), tokens)
    last = slice(-new, None)
    names = ("text_positions", "text_segments", "text_mask")
    tags = TokenTags(*(jnp.asarray(getattr(batch, name)[:, last]) for name in names))

    @jax.jit
    def both(batch, tokens, tags):
        def run(model):
            _, cache = passes.prefill(model, BATCH, GATES)
            cache = cache.with_capacity(batch.tokens.shape[1])
            return model.decode(tokens, tags, cache, GATES)[0], cache

        whole = model.apply(params, batch, GATES).logits[:, -new:]
        return model.apply(params, method=run), whole

    (found, cache), expected = both(tiny.on_device(batch), tokens, tags)
    np.testing.assert_allclose(found, expected, **tolerances.REORDERED)
    slots = BATCH.image_mask.shape[1]
    formula = cache_bytes(
        config,
        Budget.all(config.plan),
        rows=BATCH.size,
        text_slots=batch.tokens.shape[1],
        image_tokens=slots,
        image_lengths=model.reducer.image_lengths(slots, 1),
    )
    assert cache.num_bytes() == formula.total


def test_a_step_of_m3_is_one_at_the_scale_that_it_draws():
    config = to_train_with(PLAIN_CONFIG, "m3:scales=6+1")
    model, params = as_trained(config), tiny.params_of(config)["params"]
    drawn = drawn_in_training(model)
    assert [each.reducer.tokens for each in drawn] == [6, 1]
    budgets, optimizer = BudgetSet.parse("all", config.plan), optax.sgd(0.1)
    schedule = BudgetSchedule(budgets, (SchedulePhase(1.0, {"all": 1.0}),), 100)
    make = make_universal_step(model, optimizer, schedule, ObjectiveSettings(), ())
    state = TrainState.create(params, optimizer, (), seed=0, num_budgets=1)

    @jax.jit
    def losses(params):
        return [
            cross_entropy(
                each.apply({"params": params}, BATCH, GATES).logits,
                *(BATCH.targets, BATCH.loss_mask),
            ).mean
            for each in drawn
        ]

    step, wanted = jax.jit(make), np.array(losses(params))
    assert abs(wanted[0] - wanted[1]) > 1e-3
    seen = set()
    for number in range(8):
        after = step(state.replace(step=jnp.int32(number)), BATCH)
        near = np.abs(float(after.sums.loss.sum()) - wanted)
        assert near.min() < 1e-5
        seen.add(int(near.argmin()))
        # The compressors' own network has no others: all of it has moved.
        moved = after.params["multi_modal_projector"]["linear_1"]["kernel"]
        before = params["multi_modal_projector"]["linear_1"]["kernel"]
        assert np.abs(np.asarray(moved) - before).max() > 0
    assert seen == {0, 1}


@pytest.mark.parametrize("name", TRAINED)
def test_a_network_says_what_it_was_trained_with(name):
    config = trained(name)
    again = VLMConfig.from_dict(config.to_dict())
    assert again == config
    assert own_reducer(again) == reducer_for(None, again) == as_trained(config).reducer
    assert name_of(own_reducer(config)) == config.trained_with
    has_own = "token_compressor" in parameter_shapes(config)
    assert has_own == (config.compressor is not None) == (name in TRAINED[:2])


def test_networks_without_are_described_as_ever():
    fields = PLAIN_CONFIG.to_dict()
    assert not {"trained_with", "compressor"} & set(fields)
    assert VLMConfig.from_dict(fields) == PLAIN_CONFIG
    assert own_reducer(PLAIN_CONFIG) == KEEP_ALL
    assert drawn_in_training(VLM(PLAIN_CONFIG)) == (VLM(PLAIN_CONFIG),)
    with pytest.raises(ValueError, match="kind='sum' is not one of"):
        CompressorConfig(kind="sum", size=2)


@pytest.mark.parametrize(
    ("method", "network", "said"),
    [
        ("m3", None, "m3:.* trained with it, and these were trained without any"),
        ("ldpv2", None, "ldpv2:.* these were trained without any"),
        ("visor_tr_packing", "ldpv2", "these were trained with ldpv2"),
        ("visor_tr_packing:factor=4", "visor_tr_packing", "factor=4 is for weights"),
        ("ldpv2:tokens=2", "ldpv2", "tokens=2 is for weights"),
        ("m3:tokens=2,scales=2+1", "m3", "these were trained with m3"),
        ("none", "ldpv2", "none: these weights .* leave the reduction to the network"),
        ("visionzip", "ldpv2", "visionzip: these weights were trained with ldpv2"),
    ],
)
def test_weights_that_know_nothing_of_a_method_are_refused(method, network, said):
    config = PLAIN_CONFIG if network is None else trained(network)
    with pytest.raises(ValueError, match=said):
        fitted(parse(method), config)


def test_weights_serve_what_needs_no_parameters_of_another():
    m3 = trained("m3")
    assert fitted(parse("m3:tokens=1"), m3).image_lengths(36, 1) != (36,)
    assert fitted(parse("none"), m3) == KEEP_ALL
    assert fitted(parse("visionzip:keep=0.5"), m3) == VisionZip(keep=0.5)
    assert fitted(parse("ldpv2:newlines=drop"), trained("ldpv2")).newlines == "drop"
    assert isinstance(own_reducer(m3), M3)


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("fastv", PLAIN_CONFIG, "goes by the question, and a row of training holds"),
        ("m4", PLAIN_CONFIG, "Unknown token reduction 'm4'"),
        ("m3", tiny.NETWORKS["reading"], r"Set model.reading_layers=\(\)"),
    ],
)
def test_what_cannot_be_trained_with_is_refused(name, config, said):
    config = config.replace(plan=config.plan)
    if name == "fastv":
        config = config.replace(plan=LayerPlan.dense(4))
    with pytest.raises(ValueError, match=said):
        to_train_with(config, name)


def test_a_report_is_about_one_reduction():
    m3 = own_reducer(trained("m3"))
    check_one_reduction({"a": m3, "b": m3})
    with pytest.raises(ValueError, match=r"\(a: none; b: m3:.*evaluate them apart"):
        check_one_reduction({"a": KEEP_ALL, "b": m3})
