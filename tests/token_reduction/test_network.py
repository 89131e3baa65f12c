"""Methods inside the network: what is gathered, decoded, and left as it was."""

import jax
import numpy as np
import pytest

from tests import passes, tiny, tolerances
from tests.flops import abstract_model
from tests.flops.jaxpr_flops import as_one_operation, count_flops
from tests.inference.prompts import extended
from tests.token_reduction import pictures
from tests.token_reduction.pictures import CONFIG, PLAIN, RESIZED
from visor_jax.budget import Budget, BudgetSet
from visor_jax.flops.account import account
from visor_jax.flops.cache_bytes import cache_bytes
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.decoder import cross_attention
from visor_jax.models.decoder.token_reducer import KEEP_ALL, crop_flops
from visor_jax.models.vlm import VLM
from visor_jax.ops.masks import TokenTags
from visor_jax.token_reduction.crops.controls import Uniform
from visor_jax.token_reduction.crops.fastervlm import FasterVLM
from visor_jax.token_reduction.crops.visionzip import VisionZip

PLAIN_BATCH = pictures.batch_of(PLAIN)
SMALL = CONFIG.replace(plan=LayerPlan.dense(1))
SMALL_PARAMS, GATES = tiny.params_of(SMALL), (True,)


def test_logits_of_all_tokens_are_those_without_a_method():
    found, expected = (
        jax.jit(lambda b, r=r: VLM(SMALL, r).apply(SMALL_PARAMS, b, GATES).logits)(
            PLAIN_BATCH
        )
        for r in (FasterVLM(keep=1.0), KEEP_ALL)
    )
    np.testing.assert_allclose(found, expected, **tolerances.REORDERED)


@pytest.mark.parametrize("method", [FasterVLM, VisionZip])
def test_tokens_of_a_resized_grid_go_by_their_nearest_patch(method):
    batch = pictures.batch_of(RESIZED)
    assert batch.image_token_weights is not None
    tokens = pictures.encode(method(keep=0.25), batch)
    whole = np.asarray(pictures.encode(KEEP_ALL, batch).hidden)
    for row, part in enumerate(RESIZED):
        kept = pictures.kept_of(tokens, row)
        assert part.count // 4 - 5 * part.crops <= len(kept) <= part.count // 4
        hidden = np.asarray(tokens.hidden)[row, : len(kept)]
        same = np.isclose(hidden, whole[row, kept], atol=1e-5).all(axis=1)
        # What is not merged is what it would have been; and some are merged.
        assert same.all() == (method is FasterVLM)
        assert same.mean() > 0.5


@pytest.mark.parametrize("parts", [PLAIN, RESIZED])
def test_what_a_patch_takes_in_does_not_smear_through_a_convolution(parts):
    config = CONFIG.replace(projector_convolution=3)
    params, batch = tiny.params_of(config), pictures.batch_of(parts)
    tokens, whole = (
        pictures.encode(reducer, batch, config, params)
        for reducer in (VisionZip(keep=0.3), KEEP_ALL)
    )
    for row in range(len(parts)):
        kept = pictures.kept_of(tokens, row)
        hidden = np.asarray(tokens.hidden)[row, : len(kept)]
        same = np.isclose(hidden, np.asarray(whole.hidden)[row, kept], atol=1e-5)
        # Five of six stay as they are, beside those that take in the rest.
        assert 0.75 <= same.all(axis=1).mean() < 1


# VISOR with a method before the decoder: text looks at fewer tokens, where it looks.
VISOR = CONFIG.replace(plan=LayerPlan.build(3, cross=(0, 2), self_=(1,)))
VISOR_PARAMS = tiny.params_of(VISOR)


@pytest.mark.parametrize(
    ("config", "params", "gates"),
    [
        (SMALL, SMALL_PARAMS, GATES),
        (VISOR, VISOR_PARAMS, (True,)),
        (VISOR, VISOR_PARAMS, (False,)),
    ],
)
def test_prefill_and_tokens_equal_the_forward_pass(config, params, gates):
    """...for a method that merges: what the prompt was is gone, positions are fresh."""
    method, new = VisionZip(keep=0.3), 3
    tokens = np.random.default_rng(3).integers(0, 40, (len(PLAIN), new), np.int32)
    prompt = PLAIN_BATCH
    batch, model = extended(prompt, tokens), VLM(config, method)

    @jax.jit
    def stepwise(prompt, tokens, tags):
        def run(model):
            _, cache = passes.prefill(model, prompt, gates)
            cache = cache.with_capacity(prompt.tokens.shape[1] + new)
            return model.decode(tokens, tags, cache, gates)[0]

        return model.apply(params, method=run)

    last = slice(-new, None)
    tags = TokenTags(
        *(batch.text_positions[:, last], batch.text_segments[:, last]),
        batch.text_mask[:, last],
    )
    whole = jax.jit(lambda b: model.apply(params, b, gates).logits[:, -new:])
    expected = whole(batch)
    found = stepwise(prompt, tokens, tags)
    np.testing.assert_allclose(found, expected, **tolerances.REORDERED)
    # Of the whole image, or of another text's place, it is not.
    off = stepwise(prompt, tokens, tags.replace(order=tags.order + 1))
    assert np.abs(np.asarray(off) - expected).max() > 1e-4


@pytest.mark.parametrize("method", [Uniform(keep=0.3), VisionZip(keep=0.3)])
def test_with_visor_flops_and_cache_are_those_of_the_program(method, monkeypatch):
    monkeypatch.setattr(cross_attention, "depthwise_conv", as_one_operation)
    lengths = {"text_tokens": 11, "image_tokens": 37, "crops": 3, "batch": 2}
    inputs = abstract_model.abstract_batch(VISOR, **lengths)
    params = abstract_model.abstract_params(VISOR, inputs)
    model, seen = VLM(VISOR, method), []
    for budget in BudgetSet.parse("none,all", VISOR.plan):
        gates = budget.gates(VISOR.plan)

        def run(params, batch, gates=gates):
            return model.apply({"params": params}, batch, gates, method=passes.prefill)

        counted = account(
            VISOR,
            budget,
            **lengths,
            logit_positions=1,
            image_lengths=method.image_lengths(37, 3),
            crop_selection=crop_flops(method, VISOR, crops=3),
        )
        assert counted.end_to_end == count_flops(run, params, inputs)
        _, cache = jax.eval_shape(run, params, inputs)
        keys = [(layer.text, layer.image) for layer in cache.layers]
        held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(keys))
        formula = cache_bytes(
            VISOR,
            budget,
            rows=2,
            text_slots=11,
            image_tokens=37,
            image_lengths=(11, 11, 11),
        )
        assert formula.total == held
        seen.append(held)
    assert seen[0] < seen[1]


def test_flops_are_those_of_the_program():
    """...all but a method's own: this one has none."""
    lengths = {"text_tokens": 11, "image_tokens": 37, "crops": 3, "batch": 2}
    inputs = abstract_model.abstract_batch(SMALL, **lengths)
    params = abstract_model.abstract_params(SMALL, inputs)
    method = Uniform(keep=0.3)
    left = method.image_lengths(37, SMALL.plan.num_layers)
    assert left == (11,)
    counted = count_flops(
        lambda p, b: VLM(SMALL, method).apply({"params": p}, b, GATES).logits,
        *(params, inputs),
    )
    budget = Budget.all(SMALL.plan)
    formula = account(SMALL, budget, **lengths, image_lengths=left)
    assert formula.end_to_end == counted
