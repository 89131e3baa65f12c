"""The FLOPs of looks against the programs that run them, to the last FLOP."""

import jax
import jax.numpy as jnp
import pytest

from tests.flops import abstract_model
from tests.flops.jaxpr_flops import as_one_operation, count_flops
from tests.flops.test_program import ALL_CONFIGS
from visor_jax.budget import Budget
from visor_jax.flops.looks import (
    LookLengths,
    look_account,
    look_table,
    second_look_account,
)
from visor_jax.inference.generation import second_look as looks
from visor_jax.inference.generation.look_difference import LookDifference
from visor_jax.look import Look
from visor_jax.models.decoder import cross_attention
from visor_jax.models.variants import llava_ov_0p5b
from visor_jax.models.vlm import VLM

FIRST = LookLengths(crops=2, image_tokens=21)
SECOND = LookLengths(crops=5, image_tokens=37)
TEXT, BATCH, NEW_KEYS = 11, 2, 19


@pytest.fixture(autouse=True)
def _one_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `test_program`: the account counts the convolution as one."""
    monkeypatch.setattr(
        cross_attention,
        "depthwise_conv_at",
        lambda x, kernel, places: as_one_operation(x, kernel),
    )


def numbers(*shape):
    return jax.ShapeDtypeStruct((BATCH, *shape), jnp.int32)


def inputs_of(config, seen, crops):
    batch = abstract_model.abstract_batch(
        config,
        batch=BATCH,
        crops=crops,
        image_tokens=seen.image_tokens,
        text_tokens=TEXT,
    )
    return batch.replace(image_places=numbers(seen.image_tokens))


def budgets_of(config):
    every = {Budget.none(), Budget.all(config.plan), Budget.reading(config.plan)}
    return [b for b in every if not config.plan.is_dense or b != Budget.none()]


@pytest.mark.parametrize("name", ALL_CONFIGS)
def test_a_look_and_a_second_one_cost_what_the_account_says(name):
    config = ALL_CONFIGS[name]
    model = VLM(config)
    first = inputs_of(config, FIRST, FIRST.crops)
    params = abstract_model.abstract_params(config, first)
    missing = SECOND.crops - FIRST.crops
    difference = LookDifference(
        prompts=inputs_of(config, SECOND, missing),
        known=numbers(FIRST.image_tokens),
        read=numbers(NEW_KEYS),
        made=numbers(NEW_KEYS),
    )
    for before in budgets_of(config):

        def one(params, batch, budget=before):
            return looks.first_look(model, params, batch, budget)

        one_look = look_account(config, before, FIRST, text_tokens=TEXT).end_to_end
        assert BATCH * one_look == count_flops(one, params, first), before.name
        _, seen = jax.eval_shape(one, params, first)
        for budget in budgets_of(config):

            def two(params, seen, difference, budget=budget):
                return looks.second_look(model, params, seen, difference, budget)

            expected = second_look_account(
                config,
                before,
                budget,
                SECOND,
                missing=missing,
                new_keys=NEW_KEYS,
                text_tokens=TEXT,
                batch=BATCH,
            )
            counted = count_flops(two, params, seen, difference)
            assert expected.end_to_end == counted, (before.name, budget.name)


def test_looks_of_the_real_size():
    """One crop of the tower is a fifth of five, and the README has the figures."""
    config = llava_ov_0p5b()
    whole = LookLengths(crops=5, image_tokens=2929)
    base = LookLengths(crops=1, image_tokens=729)
    none = Budget.none()
    five, one = (
        look_account(config, none, seen, text_tokens=100) for seen in (whole, base)
    )
    assert five.tower.total == 5 * one.tower.total
    assert round(five.tower.total / 1e9) == 3209
    looks = [
        (Look.parse("base/none", config.plan), base),
        (Look.parse("none", config.plan), whole),
    ]
    table = look_table("llava_ov_0p5b", config, looks, whole, text_tokens=100)
    *_, base_row, all_row, dense_row = table.splitlines()
    assert base_row.split()[:3] == ["base/sa0", "1", "729"]
    assert all_row.split()[0] == "all/sa0"
    assert all_row.split()[-1] == "1.83x"
    assert dense_row.split()[-1] == "1.00x"
