"""Methods between layers against NumPy's, in the cache, in FLOPs and in bytes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import passes, tiny, tolerances
from tests.flops import abstract_model
from tests.flops.jaxpr_flops import as_one_operation, count_flops
from tests.inference.prompts import LENGTHS, extended, left_padded, prompts
from tests.token_reduction import numpy_methods
from visor_jax.budget import Budget
from visor_jax.flops.account import account
from visor_jax.flops.cache_bytes import cache_bytes
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.decoder import cross_attention
from visor_jax.models.decoder.kv_cache import KVCache
from visor_jax.models.decoder.token_reducer import KEEP_ALL, selection_flops
from visor_jax.models.vlm import VLM, run_rest, run_trunk
from visor_jax.ops.masks import TokenTags
from visor_jax.token_reduction.fastv import FastV
from visor_jax.token_reduction.pyramid_drop import PyramidDrop
from visor_jax.token_reduction.sparsevlm import SparseVLM
from visor_jax.token_reduction.sparsevlm_plus import SparseVLMPlus

VISION = dataclasses.replace(tiny.VISION, num_layers=1)
CONFIG = tiny.VISOR.replace(vision=VISION, plan=LayerPlan.dense(4))
# Layer 0 is the trunk.
MIXED = CONFIG.replace(plan=LayerPlan.build(4, cross=(0, 2), self_=(1, 3)))
PARAMS, GATES = tiny.params_of(CONFIG), tiny.all_on(CONFIG)
NEW = 8
FASTV = FastV(layer=2, keep=0.4)
PYRAMID = PyramidDrop(layers=(1, 2, 3), ratios=(0.7, 0.4, 0.2))
SPARSE = SparseVLM(layers=(0, 1, 2), keep=(6, 4, 2))
PLUS = SparseVLMPlus(layers=(0, 1, 2), keep=(6, 4, 2), heads=2, least_bias=0.2)
METHODS = {
    FASTV: functools.partial(numpy_methods.fastv, 2, 0.4),
    PYRAMID: functools.partial(
        numpy_methods.pyramid_drop, PYRAMID.layers, PYRAMID.ratios
    ),
    SPARSE: functools.partial(numpy_methods.sparsevlm, SPARSE.layers, SPARSE.keep),
    PLUS: functools.partial(
        numpy_methods.sparsevlm_plus,
        *(PLUS.layers, PLUS.keep, PLUS.heads, PLUS.least_bias, CONFIG.decoder),
    ),
}
named = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


@functools.cache
def batches():
    """Returns prompts with images of 6, 9 and 12 tokens, padded, and NEW tokens.

    First with padding on the right, then the same with padding on the left.
    """
    batch = prompts(CONFIG)
    tokens = np.random.default_rng(3).integers(0, 40, (batch.size, NEW), np.int32)
    halves = extended(batch, tokens), extended(left_padded(batch), tokens)
    return jax.tree.map(lambda *rows: np.concatenate(rows), *halves)


def prompt_of(batch):
    names = ("tokens", "text_positions", "text_segments", "text_mask")
    names = (*names, "targets", "loss_mask")
    return batch.replace(**{name: getattr(batch, name)[:, :-NEW] for name in names})


@functools.partial(jax.jit, static_argnames="method")
def prefill(batch, *, method):
    """Returns the logits of all text tokens, and a cache with room for NEW."""

    def run(model):
        every = jnp.arange(batch.tokens.shape[1])
        indices = jnp.broadcast_to(every, batch.tokens.shape)
        logits, cache = passes.prefill(model, batch, GATES, indices)
        return logits, cache.with_capacity(batch.tokens.shape[1] + NEW)

    return VLM(CONFIG, method).apply(PARAMS, method=run)


@functools.partial(jax.jit, static_argnames="method")
def decode(tokens, tags, cache, *, method):
    model = VLM(CONFIG, method)
    return model.apply(PARAMS, tokens, tags, cache, GATES, method=VLM.decode)


def stepwise(method, batch, *, change=lambda cache: cache):
    """Returns the logits of the prompts and of NEW tokens behind them."""
    logits, cache = prefill(tiny.on_device(prompt_of(batch)), method=method)
    found, cache = [logits], change(cache)
    for place in range(batch.tokens.shape[1] - NEW, batch.tokens.shape[1]):
        at = (slice(None), slice(place, place + 1))
        tags = batch.text_positions[at], batch.text_segments[at], batch.text_mask[at]
        tags = TokenTags(*map(jnp.asarray, tags))
        logits, cache = decode(batch.tokens[at], tags, cache, method=method)
        found.append(logits)
    return np.concatenate(found, axis=1)


@functools.cache
def expected(method):
    """Returns NumPy's logits of every row, prompt and new tokens."""
    oracle = METHODS.get(method, lambda: numpy_methods.keeping_all)
    return [
        numpy_methods.logits(
            PARAMS, CONFIG, batches(), row, oracle(), prompt=LENGTHS[row]
        )
        for row in range(len(LENGTHS))
    ]


def differences(found, wanted):
    """Yields found and wanted logits of each row's own tokens, on either padding."""
    rows = zip(found, batches().text_mask, wanted * 2, strict=True)
    for logits, valid, own in rows:
        yield logits[valid], own


@named
def test_prompts_and_8_tokens_are_numpys_alone_and_unpadded(method):
    for found, own in differences(stepwise(method, batches()), expected(method)):
        np.testing.assert_allclose(found, own, **tolerances.REFERENCE)
    # ...which is not what the whole image says.
    for own, whole in zip(expected(method), expected(KEEP_ALL), strict=True):
        assert np.abs(own[-NEW:] - whole[-NEW:]).max() > 1e-3


@named
def test_a_row_without_an_image_loses_nothing(method):
    """...beside rows that have one."""
    batch = prompt_of(batches())
    mask = batch.image_mask & (np.arange(batch.size) != 0)[:, None]
    batch = batch.replace(image_mask=mask)
    found, _ = prefill(tiny.on_device(batch), method=method)
    alone = numpy_methods.logits(
        PARAMS, CONFIG, batch, 0, numpy_methods.keeping_all, prompt=LENGTHS[0]
    )
    own = found[0][batch.text_mask[0]]
    np.testing.assert_allclose(own, alone, **tolerances.REFERENCE)


@pytest.mark.parametrize("method", [PYRAMID, SPARSE], ids=lambda m: type(m).__name__)
def test_a_layers_wrong_shift_is_seen(method):
    def off_by_one(cache):
        last = cache.layers[-1]
        last = last.replace(shift=last.shift - 1)
        return cache.replace(layers=(*cache.layers[:-1], last))

    found = stepwise(method, batches(), change=off_by_one)
    worst = max(
        np.abs(own[-NEW:] - wanted[-NEW:]).max()
        for own, wanted in differences(found, expected(method))
    )
    assert worst > 1e-3


@pytest.mark.parametrize(
    "method",
    [FastV(layer=2, keep=1.0), PyramidDrop(layers=(1, 2, 3), ratios=(1.0, 1.0, 1.0))],
    ids=lambda m: type(m).__name__,
)
def test_keeping_everything_changes_nothing(method):
    found, _ = prefill(tiny.on_device(prompt_of(batches())), method=method)
    filler = np.zeros((*found.shape[:1], NEW, found.shape[2]))
    for own, wanted in differences(
        np.concatenate([found, filler], axis=1), expected(KEEP_ALL)
    ):
        np.testing.assert_allclose(own[:-NEW], wanted[:-NEW], **tolerances.REFERENCE)


@named
def test_flops_are_those_of_the_program_its_own_work_included(method, monkeypatch):
    monkeypatch.setattr(cross_attention, "depthwise_conv", as_one_operation)
    lengths = {"text_tokens": 11, "image_tokens": 37, "crops": 3, "batch": 2}
    prompt = {name: lengths[name] for name in ("text_tokens", "image_tokens")}
    for config in (CONFIG, *[MIXED] * (method is FASTV)):
        inputs = abstract_model.abstract_batch(config, **lengths)
        params = abstract_model.abstract_params(config, inputs)
        gates, budget = tiny.all_on(config), Budget.all(config.plan)
        model = VLM(config, method)
        counted = count_flops(
            lambda p, b, model=model, gates=gates: (
                model.apply({"params": p}, b, gates).logits
            ),
            params,
            inputs,
        )
        own = selection_flops(method, config, **prompt)
        left = method.image_lengths(37, config.plan.num_layers)
        formula = account(config, budget, **lengths, image_lengths=left, selection=own)
        assert formula.end_to_end == counted
        assert formula.selection == 2 * own > 0


@named
def test_cache_bytes_and_free_slots_are_those_of_the_arrays(method):
    batch = prompt_of(batches())
    _, cache = jax.eval_shape(lambda b: prefill(b, method=method), batch)
    slots, tokens = batch.tokens.shape[1] + NEW, batch.image_mask.shape[1]
    shape = {"rows": batch.size, "text_slots": slots, "image_tokens": tokens}
    lengths = method.image_lengths(tokens, 4)
    assert lengths[-1] < lengths[0] == tokens
    formula = cache_bytes(
        CONFIG, Budget.all(CONFIG.plan), **shape, image_lengths=lengths
    )
    assert cache.num_bytes() == formula.total
    empty = jax.eval_shape(lambda: KVCache.empty(CONFIG, GATES, method, **shape))
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), c) for c in (empty, cache)]
    assert shapes[0] == shapes[1]


def test_what_was_noted_goes_along_from_the_trunk():
    """The trunk is a program of its own where budgets share it."""
    config = MIXED
    model, gates = VLM(config, FastV(layer=1, keep=0.4)), tiny.all_on(config)
    assert config.plan.trunk_length == 1
    batch, params = tiny.on_device(prompt_of(batches())), tiny.params_of(config)
    whole = jax.jit(model.apply, static_argnums=2)(params, batch, gates).logits
    trunk = jax.jit(functools.partial(model.apply, method=run_trunk))(params, batch)
    assert trunk.notes.shape == batch.image_mask.shape

    def rest(model, trunk):
        return model.logits(run_rest(model, trunk, gates).text)

    found = jax.jit(functools.partial(model.apply, method=rest))(params, trunk)
    valid = np.asarray(batch.text_mask)
    np.testing.assert_allclose(found[valid], whole[valid], **tolerances.REORDERED)


def test_an_image_of_which_keys_alone_are_at_hand_is_refused():
    batch = tiny.on_device(prompt_of(batches()))

    def run(model):
        begun = passes.begin_batch(model, batch, remember=True)
        begun = begun.replace(image=begun.image.tags)
        return model.run(begun, GATES, image_keys=(None,) * 4)[0].text.hidden

    model = VLM(CONFIG, FastV(layer=1))
    with pytest.raises(ValueError, match="layer 0, where only its keys"):
        jax.eval_shape(lambda: model.apply(PARAMS, method=run))
