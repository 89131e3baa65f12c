"""What the account says of savings, batches and impossible input."""

import itertools

import pytest

from visor_jax.budget import Budget
from visor_jax.flops.account import account, savings
from visor_jax.models.adapters import with_adapters
from visor_jax.models.variants import dense, llava_ov_0p5b, mini

LENGTHS = {"text_tokens": 11, "image_tokens": 37, "crops": 3, "batch": 2}


def test_savings_reproduce_the_published_scale() -> None:
    """24 layers, 8 CROSS, 7290 image and 100 text tokens; last layer in full."""
    config = with_adapters(llava_ov_0p5b(), "paper")
    published = {0: 35, 1: 14, 2: 9, 3: 6.6, 4: 5.2, 7: 3.1}
    for count, saving in published.items():
        budget = Budget(config.plan.self_layers[:count])
        measured = account(
            config,
            budget,
            text_tokens=100,
            image_tokens=7290,
            crops=10,
            logit_positions=0,
        )
        reference = measured.dense().layers
        in_full = len(reference) * reference[0].total
        assert in_full / measured.llm_prefill == pytest.approx(saving, rel=0.025)
        ours = savings(measured).llm_saving
        assert 0.95 < ours * measured.llm_prefill / in_full < 0.97


def test_dense_saves_nothing_against_itself() -> None:
    network = dense(mini())
    saved = savings(account(network, Budget.all(network.plan), **LENGTHS))
    assert (saved.llm_saving, saved.end_to_end_saving) == (1.0, 1.0)


def test_dense_is_the_network_without_what_visor_has_beside_it() -> None:
    convolved = mini().replace(projector_convolution=3)
    with_it, without = (
        account(config, Budget(), **LENGTHS) for config in (convolved, mini())
    )
    assert with_it.dense().end_to_end == without.dense().end_to_end
    assert with_it.end_to_end > without.end_to_end
    assert with_it.llm_prefill == without.llm_prefill


def test_batch_multiplies_every_part() -> None:
    lengths = {**LENGTHS, "batch": 1}
    one = account(mini(), Budget((1, 3)), **lengths)
    three = account(mini(), Budget((1, 3)), **{**lengths, "batch": 3})
    assert three.end_to_end == 3 * one.end_to_end
    assert three.decode_per_token(7) == 3 * one.decode_per_token(7)


def test_impossible_lengths_are_all_named() -> None:
    with pytest.raises(ValueError, match=r"text_tokens=0.*image_tokens=-1.*crops=-2"):
        account(mini(), Budget(), text_tokens=0, image_tokens=-1, crops=-2)
    with pytest.raises(ValueError, match="logit_positions=12 exceeds text_tokens=11"):
        account(mini(), Budget(), **LENGTHS, logit_positions=12)
    with pytest.raises(ValueError, match="context=0"):
        account(mini(), Budget(), **LENGTHS).decode_per_token(0)
    with pytest.raises(ValueError, match="SELF layers of this model"):
        account(mini(), Budget((2,)), **LENGTHS)


def test_every_pair_of_budgets_of_one_size_costs_the_same_while_all_is_read() -> None:
    layers = mini().plan.self_layers
    pairs = itertools.combinations(layers, 2)
    costs = {account(mini(), Budget(p), **LENGTHS).llm_prefill for p in pairs}
    assert len(costs) == 1
