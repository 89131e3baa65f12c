"""The formulas against the program: equal to the last FLOP, for every budget."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.flops import abstract_model
from tests.flops.jaxpr_flops import as_one_operation, count_flops
from visor_jax.budget import Budget, BudgetSet
from visor_jax.flops.account import account
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.config import (
    AdapterConfig,
    DecoderConfig,
    VisionConfig,
    VLMConfig,
)
from visor_jax.models.decoder import cross_attention
from visor_jax.models.variants import dense, mini
from visor_jax.ops.depthwise_conv import depthwise_conv


@pytest.fixture(autouse=True)
def _one_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets adapters run their depthwise convolution as a convolution.

    The model writes it as shifted multiply-adds, which are faster and do the same work,
    but cannot be told from elementwise operations in a traced program.
    """
    monkeypatch.setattr(cross_attention, "depthwise_conv", as_one_operation)


def _odd(plan: LayerPlan, **changes: object) -> VLMConfig:
    """Returns sizes that are all different; the patches do not fill the picture."""
    config = VLMConfig(
        vision=VisionConfig(
            width=10,
            mlp_width=14,
            num_layers=2,
            num_heads=2,
            image_size=23,
            patch_size=5,
        ),
        decoder=DecoderConfig(
            vocab_size=29,
            width=24,
            mlp_width=34,
            num_heads=6,
            num_kv_heads=2,
            head_dim=4,
            tie_embeddings=False,
        ),
        adapter=AdapterConfig(num_kv_heads=3, conv_kernel=5),
        plan=plan,
    )
    return config.replace(**changes)


def _qwen3(config: VLMConfig) -> VLMConfig:
    changes = {"head_dim": 14, "qkv_bias": False, "qk_norm": True}
    return config.replace(decoder=dataclasses.replace(config.decoder, **changes))


ODD_CONFIGS = {
    "nobody reads the last SELF layers": _odd(
        LayerPlan.build(6, cross=(1,), self_=(0, 2, 4))
    ),
    "ends in CROSS, recomputed": _odd(
        LayerPlan.build(5, cross=(0, 4), self_=(1, 3)),
        remat="layer",
        compute_dtype="bfloat16",
    ),
    "CROSS only": _odd(LayerPlan.build(3, cross=(0, 2)), image_newline=False),
    "SELF only": _odd(
        LayerPlan.build(3, self_=(1,)), grid_embedding=True, projector_convolution=3
    ),
    "text only": _odd(LayerPlan.build(2)),
    "READ before and behind SELF": _odd(LayerPlan.build(4, self_=(1, 2), read=(0, 3))),
    "heads wider than the stream, as in Qwen3": _qwen3(
        _odd(LayerPlan.build(5, cross=(0, 4), self_=(1, 3)))
    ),
}
LENGTHS = {"text_tokens": 11, "image_tokens": 37, "crops": 3, "batch": 2}


ALL_CONFIGS = {"mini": mini(), "dense mini": dense(mini()), **ODD_CONFIGS}


def _budgets(config: VLMConfig) -> list[Budget]:
    plan = config.plan
    *rest, last = plan.self_layers or (0,)
    reading = [Budget.reading(plan), Budget(tuple(rest), (last,))]
    if not plan.self_layers:
        reading = []
    if plan.is_dense:
        return [*reading, Budget.all(plan)]
    return [*BudgetSet.parse(["every"], plan), *reading]


@pytest.mark.parametrize("name", ALL_CONFIGS)
def test_forward_costs_what_the_account_says(name: str) -> None:
    config = ALL_CONFIGS[name]
    inputs = abstract_model.abstract_batch(config, **LENGTHS)
    params = abstract_model.abstract_params(config, inputs)
    for budget in _budgets(config):
        program = abstract_model.forward(config, budget.gates(config.plan))
        counted = count_flops(program, params, inputs)
        assert account(config, budget, **LENGTHS).end_to_end == counted, budget.name


@pytest.mark.parametrize("name", ALL_CONFIGS)
def test_prefill_costs_the_forward_pass_with_its_own_logits(name: str) -> None:
    config = ALL_CONFIGS[name]
    budget = _budgets(config)[-1]
    inputs = abstract_model.abstract_batch(config, **LENGTHS)
    params = abstract_model.abstract_params(config, inputs)
    program = abstract_model.prefill(config, budget.gates(config.plan))
    logits, _ = jax.eval_shape(program, params, inputs)
    expected = account(config, budget, **LENGTHS, logit_positions=logits.shape[1])
    assert expected.end_to_end == count_flops(program, params, inputs)


@pytest.mark.parametrize("name", ALL_CONFIGS)
def test_an_image_at_hand_costs_no_layer_anything(name: str) -> None:
    config = ALL_CONFIGS[name]
    inputs = abstract_model.abstract_batch(config, **LENGTHS)
    params = abstract_model.abstract_params(config, inputs)
    every = range(config.plan.num_layers)
    for budget in (_budgets(config)[0], _budgets(config)[-1]):
        gates = budget.gates(config.plan)
        cache = abstract_model.abstract_cache(config, gates, params, inputs, 0)
        images = tuple(layer.image for layer in cache.layers)
        program = abstract_model.with_image_at_hand(config, gates)
        counted = count_flops(program, params, inputs, images)
        expected = account(config, budget, **LENGTHS, at_hand=every)
        assert expected.end_to_end == counted, budget.name
        whole = account(config, budget, **LENGTHS)
        # Of some layers it is between the two.
        some = account(config, budget, **LENGTHS, at_hand=every[:2])
        assert expected.end_to_end <= some.end_to_end <= whole.end_to_end


@pytest.mark.parametrize("name", ALL_CONFIGS)
def test_decoding_costs_what_the_account_says(name: str) -> None:
    config, spare = ALL_CONFIGS[name], 6
    inputs = abstract_model.abstract_batch(config, **LENGTHS)
    params = abstract_model.abstract_params(config, inputs)
    token, tags = abstract_model.one_token(LENGTHS["batch"])
    for budget in (_budgets(config)[0], _budgets(config)[-1]):
        gates = budget.gates(config.plan)
        cache = abstract_model.abstract_cache(config, gates, params, inputs, spare)
        step = abstract_model.decode(config, gates)
        counted = count_flops(step, params, token, tags, cache)
        # Every slot of the cache is multiplied; the unused ones are masked.
        slots = LENGTHS["text_tokens"] + spare
        expected = account(config, budget, **LENGTHS).decode_per_token(slots)
        assert expected == counted, budget.name


def test_the_convolution_is_the_one_of_the_model() -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 9, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    one, shifted = as_one_operation(x, kernel), depthwise_conv(x, kernel)
    np.testing.assert_allclose(one, shifted, rtol=1e-5, atol=1e-5)
