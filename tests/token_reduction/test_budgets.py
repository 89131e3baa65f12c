"""Budgets as numbers, against the numbers of the papers and against closed formulas."""

import dataclasses

import pytest

from tests import tiny
from visor_jax.budget import Budget
from visor_jax.flops.account import account
from visor_jax.inference.answers import Answer
from visor_jax.inference.files.answer_flops import flops_of
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.decoder.token_reducer import selection_flops
from visor_jax.models.vlm import VLM
from visor_jax.token_reduction.fastv import FastV
from visor_jax.token_reduction.registry import fitted, name_of, parse
from visor_jax.token_reduction.solve import TEXT_TOKENS

# The depth and the image of LLaVA-1.5-7B.
DEPTH, TOKENS = 32, 576
CONFIG = tiny.VISOR.replace(plan=LayerPlan.dense(DEPTH))


def method_of(spec, config=CONFIG):
    return fitted(parse(spec), config)


def average(method, tokens=TOKENS):
    return sum(method.image_lengths(tokens, DEPTH)) / DEPTH


@pytest.mark.parametrize(
    ("layer", "wanted", "left"),
    [
        (2, 192, 166),
        (2, 128, 98),
        (2, 64, 30),
        (3, 192, 152),
        (3, 128, 82),
        (3, 64, 11),
    ],
)
def test_fastv_keeps_what_makes_the_average(layer, wanted, left):
    method = method_of(f"fastv:layer={layer},average={wanted}")
    lengths = (TOKENS,) * layer + (left,) * (DEPTH - layer)
    assert method.image_lengths(TOKENS, DEPTH) == lengths


def test_pyramid_drop_is_at_270_and_reaches_192():
    assert average(method_of("pyramiddrop")) == 270
    method = method_of("pyramiddrop:average=192")
    # Where 1 + r + r^2 + r^3 = 4 * 192 / 576.
    assert method.knob(TOKENS) == pytest.approx(0.253, abs=0.003)
    assert average(method) == pytest.approx(192, abs=0.5)


@pytest.mark.parametrize("spec", ["pyramiddrop:average=140", "fastv:average=30"])
def test_what_lies_below_the_layers_before_the_first_stage_is_refused(spec):
    method = method_of(spec)
    least = {"p": 8 * 576 + 24, "f": 2 * 576 + 30}[spec[0]] / 32
    with pytest.raises(ValueError, match=f"with 576 image tokens.* is at {least:.4g}"):
        method.image_lengths(TOKENS, DEPTH)
    just = method_of(f"{spec.partition(':')[0]}:average={least}")
    assert average(just) == least
    # A smaller image can.
    assert average(method, 64) <= 64


@pytest.mark.parametrize(
    ("keep", "steps", "mean"),
    [
        ("300+200+110", [(300, 83, 9), (200, 33, 4), (110, 29, 3)], 206.5),
        ("303+110+36", [(303, 82, 9), (110, 61, 7), (36, 25, 3)], 145),
        ("238+48+26", [(238, 102, 11), (48, 61, 7), (26, 9, 1)], 114),
        ("66+30+17", [(66, 154, 16), (30, 16, 2), (17, 5, 1)], 82),
    ],
)
def test_sparsevlm_counts_merged_tokens(keep, steps, mean):
    method = method_of(f"sparsevlm:keep={keep}")
    assert method.layers == (2, 6, 15)
    assert list(method.steps(TOKENS, None)) == steps
    assert average(method) == pytest.approx(mean, abs=0.5)


@pytest.mark.parametrize(
    ("keep", "mean"),
    [("300+200+118", 207), ("238+108+60", 144), ("246+54+28", 114), ("66+34+20", 82)],
)
def test_sparsevlm_plus_is_where_its_authors_label_it(keep, mean):
    method = method_of(f"sparsevlm+:keep={keep}")
    assert average(method) == pytest.approx(mean, abs=0.5)
    heads = CONFIG.decoder.num_heads
    assert method.heads == round(heads * 14 / 32)
    with pytest.raises(ValueError, match=f"heads={heads + 1}, but the network has"):
        method_of(f"sparsevlm+:heads={heads + 1}")
    with pytest.raises(ValueError, match=r"least_bias=0\.0 must be a share"):
        parse("sparsevlm+:least_bias=0")


def test_sparsevlm_drops_one_at_least_and_scales_with_the_budget():
    method = method_of("sparsevlm")
    assert list(method.steps(7, None)) == [(6, 1, 1)] * 3
    assert list(method.steps(0, None)) == [(0, 0, 0)] * 3
    assert average(method_of("sparsevlm:average=192")) == pytest.approx(192, abs=0.5)
    assert average(method_of("sparsevlm:average=576")) == 576
    deeper = method_of("sparsevlm", tiny.VISOR.replace(plan=LayerPlan.dense(24)))
    assert deeper.layers == (2, 4, 11)


INSIDE = ["fastv", "pyramiddrop", "sparsevlm", "sparsevlm+"]


@pytest.mark.parametrize("name", INSIDE)
def test_a_share_of_the_dense_flops_is_met(name):
    tokens, depth = 200, 8
    config = tiny.VISOR.replace(plan=LayerPlan.dense(depth))
    method = method_of(f"{name}:llm_flops=0.6", config)
    prompt = {"text_tokens": TEXT_TOKENS, "image_tokens": tokens}
    cost = account(
        config,
        Budget.all(config.plan),
        **prompt,
        crops=0,
        logit_positions=1,
        image_lengths=method.image_lengths(tokens, depth),
        selection=selection_flops(method, config, **prompt),
    )
    share = cost.llm_prefill / cost.dense().llm_prefill
    # One token more or less in the layers behind.
    assert share == pytest.approx(0.6, abs=1 / tokens)
    with pytest.raises(ValueError, match=r"llm_flops=0.01 .* is at 0\.\d+"):
        method_of(f"{name}:llm_flops=0.01", config).image_lengths(tokens, depth)


def test_a_budget_is_the_buckets_and_smaller_images_keep_the_share():
    method = method_of("fastv:average=192")
    share = method.knob(TOKENS)
    assert method.table(TOKENS, 0)[300] == round(300 * share) < 166
    assert method.table(300, 0)[300] > round(300 * share)
    assert method.in_bucket(TOKENS) == FastV(keep=share)


@pytest.mark.parametrize("name", INSIDE)
def test_in_a_bucket_a_budget_is_settings_of_the_methods_own(name):
    method = method_of(f"{name}:average=200")
    plain = method.in_bucket(TOKENS)
    assert (plain.average, plain.network) == (None, None)
    assert parse(name_of(plain)) == plain == plain.in_bucket(7)
    for tokens in (0, 1, 37, 300, TOKENS):
        stages = range(len(plain.stages))
        own = tuple(method.table(TOKENS, stage)[tokens] for stage in stages)
        assert own == plain.counts(tokens, None)


def test_an_answers_flops_are_those_of_the_bucket_that_it_was_in():
    method = method_of("fastv:average=192")
    answer = Answer(
        number=0,
        request=None,
        budget=Budget.all(CONFIG.plan),
        text_tokens=9,
        image_tokens=300,
        image_slots=TOKENS,
    )
    left = round(300 * method.knob(TOKENS))
    prompt = {"text_tokens": 9, "image_tokens": 300}
    counted = account(
        CONFIG,
        answer.budget,
        **prompt,
        crops=0,
        logit_positions=1,
        image_lengths=(300, 300, *[left] * (DEPTH - 2)),
        selection=selection_flops(method, CONFIG, **prompt),
    )
    found = flops_of(answer, VLM(CONFIG, method))
    assert found["llm_prefill"] == counted.llm_prefill


@pytest.mark.parametrize("name", ["fastervlm", "visionzip", "hired", "random"])
def test_before_the_decoder_a_budget_is_a_share_of_the_bucket(name):
    method = method_of(f"{name}:average=64")
    assert method.image_lengths(TOKENS, DEPTH) == (64,) * DEPTH
    # A smaller image in that bucket keeps the same share.
    plain = method.in_bucket(TOKENS)
    assert plain == parse(name_of(plain)) == parse(f"{name}:keep={64 / TOKENS}")
    assert plain.image_lengths(300, DEPTH)[0] == 300 * 64 // TOKENS
    assert method_of(f"{name}:average=900").image_lengths(TOKENS, 1) == (TOKENS,)
    with pytest.raises(ValueError, match=r"average=0\.5 .* one token left it is at 1"):
        method_of(f"{name}:average=0.5").image_lengths(TOKENS, DEPTH)


def test_before_the_decoder_a_share_of_the_dense_flops_is_met():
    tokens, depth = 200, 8
    config = tiny.VISOR.replace(plan=LayerPlan.dense(depth))
    budget, prompt = Budget.all(config.plan), {"text_tokens": 64, "image_tokens": 200}

    def share(kept):
        lengths = (kept,) * depth
        cost = account(
            config, budget, **prompt, crops=0, logit_positions=1, image_lengths=lengths
        )
        return cost.llm_prefill / cost.dense().llm_prefill

    (kept,) = set(method_of("visionzip:llm_flops=0.5", config).image_lengths(200, 8))
    shares = [share(count) for count in range(1, tokens + 1)]
    assert kept == 1 + min(range(tokens), key=lambda i: abs(shares[i] - 0.5))
    with pytest.raises(ValueError, match=rf"llm_flops=0.01 .* at {share(1):.4g}"):
        method_of("visionzip:llm_flops=0.01", config).image_lengths(tokens, depth)


@pytest.mark.parametrize(
    "spec", ["visionzip:keep=0.25,average=64", "hired:average=9,llm_flops=0.5"]
)
def test_one_budget_is_enough(spec):
    with pytest.raises(ValueError, match="each say how many tokens stay"):
        parse(spec)


def test_who_has_a_budget_wants_to_know_the_network():
    with pytest.raises(ValueError, match=r"say for which with `fitted"):
        parse("fastv:average=9").image_lengths(9, 4)
    method = method_of("fastv:average=9")
    assert dataclasses.replace(method, network=None) == parse("fastv:average=9")
