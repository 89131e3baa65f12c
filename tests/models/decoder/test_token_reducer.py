"""The seam of token reduction: masks, positions, cache, gradients, FLOPs and bytes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import passes, tiny, tolerances
from tests.flops import abstract_model
from tests.flops.jaxpr_flops import as_one_operation, count_flops
from tests.inference.prompts import extended, left_padded, prompts
from tests.models.decoder.every_second import EverySecond, reducers
from visor_jax.budget import Budget
from visor_jax.flops.account import account
from visor_jax.flops.cache_bytes import cache_bytes
from visor_jax.models.decoder import cross_attention
from visor_jax.models.decoder.decoder import DecoderState
from visor_jax.models.decoder.kv_cache import KVCache
from visor_jax.models.decoder.token_reducer import KEEP_ALL, PositionRule
from visor_jax.models.vlm import VLM, begin_batch, image_tags, text_tags
from visor_jax.ops.masks import TokenTags

CONFIG, PARAMS = tiny.VISOR, tiny.params_of(tiny.VISOR)
# Between layers that read the image; behind the trunk.
STAGE, NEW = 2, 8
REDUCERS = reducers(STAGE)
ALL = Budget.all(CONFIG.plan)
GATES = ALL.gates(CONFIG.plan)


def name_of(value):
    if isinstance(value, EverySecond):
        return f"{value.position_rule.value}-{value.stage}"
    return str(value)


def both_paddings(new=0):
    """Returns prompts, half of them padded on the left, followed by `new` tokens."""
    batch = prompts(CONFIG)
    tokens = np.random.default_rng(3).integers(0, 40, (batch.size, new), np.int32)
    halves = extended(batch, tokens), extended(left_padded(batch), tokens)
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *halves)


@functools.partial(jax.jit, static_argnames=("reducer", "gates"))
def forward(batch, *, reducer, gates):
    return VLM(CONFIG, reducer).apply(PARAMS, batch, gates).logits


def logits_of(reducer, batch, gates=GATES):
    return np.asarray(forward(tiny.on_device(batch), reducer=reducer, gates=gates))


def halved(batch, *, renumbered):
    """Returns the batch as a host would have laid it out with half of the image.

    An oracle that knows nothing of reducers: other indices, masks and order.
    """
    cut = {
        name: np.asarray(getattr(batch, name))[:, ::2].copy()
        for name in ("image_token_index", "image_positions", "image_mask")
    }
    text = np.asarray(batch.text_positions).copy()
    if renumbered:
        for row in range(batch.size):
            whole = np.asarray(batch.image_positions)[row]
            there = np.asarray(batch.image_mask)[row]
            left = cut["image_positions"][row][cut["image_mask"][row]]
            gone = sorted(set(whole[there]) - set(left))
            text[row] -= np.searchsorted(gone, text[row])
            cut["image_positions"][row] -= np.searchsorted(
                gone, cut["image_positions"][row]
            ).astype(np.int32)
    return batch.replace(**cut, text_positions=text)


@pytest.mark.parametrize("rule", list(PositionRule), ids=lambda rule: rule.value)
def test_a_reduction_before_layer_0_is_a_prompt_with_a_smaller_image(rule):
    batch = both_paddings()
    found = logits_of(EverySecond(rule, 0), batch)
    expected = logits_of(
        KEEP_ALL, halved(batch, renumbered=rule is not PositionRule.KEEP)
    )
    valid = np.asarray(batch.text_mask)
    np.testing.assert_allclose(found[valid], expected[valid], **tolerances.REORDERED)
    other = logits_of(KEEP_ALL, halved(batch, renumbered=rule is PositionRule.KEEP))
    assert np.abs(found[valid] - other[valid]).max() > 1e-3


@pytest.mark.parametrize("rule", [PositionRule.KEEP, PositionRule.RENUMBER])
def test_a_reduction_in_the_middle_splits_the_network_in_two(rule):
    """Layers before it on the whole prompt, those behind it on one built by hand."""
    batch = both_paddings()
    small = halved(batch, renumbered=rule is PositionRule.RENUMBER)

    def by_hand(model, batch, small):
        first, _ = model.run(begin_batch(model, batch), GATES, stop=STAGE)
        decoder = model.language_model
        text = decoder.stream(first.text.hidden, text_tags(small))
        image = decoder.stream(first.image.hidden[:, ::2], image_tags(small))
        done, _ = model.run(DecoderState(text, image), GATES, start=STAGE)
        return model.logits(done.text)

    run = jax.jit(functools.partial(VLM(CONFIG).apply, method=by_hand))
    expected = run(PARAMS, batch, tiny.on_device(small))
    valid = np.asarray(batch.text_mask)
    found = logits_of(EverySecond(rule, STAGE), batch)
    np.testing.assert_allclose(
        found[valid], np.asarray(expected)[valid], **tolerances.REORDERED
    )


def stepwise(reducer, batch, gates, *, change=lambda cache: cache):
    """Returns the logits of NEW tokens that follow their prompts one by one."""
    model, slots = VLM(CONFIG, reducer), batch.tokens.shape[1]
    text = ("tokens", "text_positions", "text_segments", "text_mask")
    text = (*text, "targets", "loss_mask")
    prompt = batch.replace(**{name: getattr(batch, name)[:, :-NEW] for name in text})
    prefill = jax.jit(
        functools.partial(model.apply, method=passes.prefill), static_argnums=2
    )
    _, cache = prefill(PARAMS, prompt, gates)
    cache, found = change(cache.with_capacity(slots)), []
    step = jax.jit(functools.partial(model.apply, method=VLM.decode), static_argnums=4)
    for place in range(slots - NEW, slots):
        at = slice(place, place + 1)
        tags = TokenTags(
            batch.text_positions[:, at],
            batch.text_segments[:, at],
            batch.text_mask[:, at],
        )
        logits, cache = step(PARAMS, batch.tokens[:, at], tags, cache, gates)
        found.append(logits)
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("budget", [Budget.none(), ALL], ids=str)
@pytest.mark.parametrize("reducer", REDUCERS, ids=name_of)
def test_prefill_and_8_tokens_equal_the_forward_pass(reducer, budget):
    batch, gates = both_paddings(NEW), budget.gates(CONFIG.plan)
    expected = logits_of(reducer, batch, gates)[:, -NEW:]
    np.testing.assert_allclose(
        stepwise(reducer, batch, gates), expected, **tolerances.REORDERED
    )


@pytest.mark.parametrize("reducer", REDUCERS[1:], ids=name_of)
def test_a_wrong_shift_is_seen(reducer):
    """...or the test above would hold for any positions."""
    batch = both_paddings(NEW)

    def off_by_one(cache):
        layers = tuple(
            layer if layer.shift is None else layer.replace(shift=layer.shift - 1)
            for layer in cache.layers
        )
        assert any(layer.shift is not None for layer in layers)
        return cache.replace(layers=layers)

    expected = logits_of(reducer, batch)[:, -NEW:]
    wrong = stepwise(reducer, batch, GATES, change=off_by_one)
    assert np.abs(wrong - expected).max() > 1e-3


@pytest.mark.parametrize("reducer", REDUCERS, ids=name_of)
def test_traced_gates_and_static_ones_agree(reducer):
    batch = both_paddings()
    run = jax.jit(VLM(CONFIG, reducer).apply)
    traced = np.asarray(run(PARAMS, batch, jnp.array(GATES)).logits)
    valid = np.asarray(batch.text_mask)
    np.testing.assert_allclose(
        traced[valid], logits_of(reducer, batch)[valid], **tolerances.REORDERED
    )


@pytest.mark.parametrize("reducer", REDUCERS, ids=name_of)
def test_gradients_reach_what_is_kept(reducer):
    """What goes before anybody has read it gets none; what goes later has been read."""
    batch, model = both_paddings(), VLM(CONFIG, reducer)

    def loss(hidden, gates):
        def run(model):
            image = model.encode_image(batch.pixels, batch.image_token_index)
            begun = model.begin(
                batch.tokens,
                text_tags(batch),
                image.replace(hidden=hidden),
                image_tags(batch),
            )
            done, _ = model.run(begun, gates)
            return jnp.sum(jnp.where(valid[..., None], model.logits(done.text), 0) ** 2)

        return model.apply(PARAMS, method=run)

    valid = batch.text_mask
    width = CONFIG.decoder.width
    hidden = jax.random.normal(jax.random.key(0), (*batch.image_mask.shape, width))
    grads = jax.jit(jax.grad(loss))(hidden, jnp.array(GATES))
    size = np.abs(np.asarray(grads)).max(axis=-1)
    there = np.asarray(batch.image_mask)
    kept = np.arange(there.shape[1]) % 2 == 0
    assert size[there & kept].min() > 0
    assert (size[there & ~kept].max() > 0) == (reducer.stage > 0)


@pytest.mark.parametrize("reducer", REDUCERS, ids=name_of)
def test_flops_are_those_of_the_program(reducer, monkeypatch):
    monkeypatch.setattr(cross_attention, "depthwise_conv", as_one_operation)
    lengths = {"text_tokens": 11, "image_tokens": 37, "crops": 3, "batch": 2}
    inputs = abstract_model.abstract_batch(CONFIG, **lengths)
    params = abstract_model.abstract_params(CONFIG, inputs)
    model = VLM(CONFIG, reducer)
    left = reducer.image_lengths(37, CONFIG.plan.num_layers)
    for budget in (Budget.none(), ALL):
        gates = budget.gates(CONFIG.plan)
        counted = count_flops(
            lambda p, b, gates=gates: model.apply({"params": p}, b, gates).logits,
            params,
            inputs,
        )
        formula = account(CONFIG, budget, **lengths, image_lengths=left)
        assert formula.end_to_end == counted
        assert formula.llm_prefill < account(CONFIG, budget, **lengths).llm_prefill


@pytest.mark.parametrize("budget", [Budget.none(), ALL], ids=str)
@pytest.mark.parametrize("reducer", REDUCERS, ids=name_of)
def test_cache_bytes_are_those_of_the_arrays(reducer, budget):
    batch, gates = both_paddings(), budget.gates(CONFIG.plan)
    model, spare = VLM(CONFIG, reducer), 3
    prefill = jax.jit(
        functools.partial(model.apply, method=passes.prefill), static_argnums=2
    )
    _, cache = prefill(PARAMS, batch, gates)
    cache = cache.with_capacity(batch.tokens.shape[1] + spare)
    tokens = batch.image_mask.shape[1]
    formula = cache_bytes(
        CONFIG,
        budget,
        text_slots=batch.tokens.shape[1] + spare,
        image_tokens=tokens,
        rows=batch.size,
        image_lengths=reducer.image_lengths(tokens, CONFIG.plan.num_layers),
    )
    assert cache.num_bytes() == formula.total
    empty = KVCache.empty(
        CONFIG,
        gates,
        reducer,
        rows=batch.size,
        text_slots=batch.tokens.shape[1] + spare,
        image_tokens=tokens,
    )
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), c) for c in (empty, cache)]
    assert shapes[0] == shapes[1]


@dataclasses.dataclass(frozen=True)
class FirstPatches(EverySecond):
    """Keeps the first 4 patches of each crop, and all newlines."""

    reads_crops: bool = True

    @property
    def stages(self):
        return ()

    def image_lengths(self, image_tokens, num_layers):
        return (image_tokens - 2,) * num_layers

    def on_crops(self, crops):
        early = jnp.arange(crops.keep.shape[-1]) < 4
        return crops.replace(keep=crops.keep & early)


@pytest.mark.parametrize("rule", list(PositionRule), ids=lambda rule: rule.value)
def test_patches_dropped_before_the_projector_are_gone_from_the_prompt(rule):
    # Of 9 patches in each of 2 crops: the last two in this order are dropped.
    samples = [tiny.Sample(before=2, image=8, questions=(4,))]
    batch = tiny.random_batch(CONFIG, samples, padding=0)
    newline = 2 * CONFIG.vision.num_patches
    index = np.array([[0, 5, 2, newline, 9, 12, 8, 3]], np.int32)
    batch = batch.replace(image_token_index=index)
    dropped = np.array([1, 6])
    left = np.setdiff1d(np.arange(8), dropped)
    order = np.asarray(batch.image_positions)[:, left]
    text = np.asarray(batch.text_positions)
    if rule is not PositionRule.KEEP:
        order, text = order.copy(), text - 2 * (text > 2 + 6)
        order[0] = 2 + np.arange(6)
    by_hand = batch.replace(
        image_token_index=index[:, left],
        image_positions=order.astype(np.int32),
        image_mask=batch.image_mask[:, left],
        text_positions=text.astype(np.int32),
    )
    found = logits_of(FirstPatches(rule, 0), batch)
    np.testing.assert_allclose(
        found, logits_of(KEEP_ALL, by_hand), **tolerances.REORDERED
    )


def test_a_reading_loss_is_refused():
    config = tiny.NETWORKS["reading"]
    batch = tiny.random_batch(config)
    with pytest.raises(ValueError, match="leave out the token reducer"):
        jax.eval_shape(
            lambda b: VLM(config, REDUCERS[0]).apply(
                tiny.params_of(config), b, tiny.all_on(config), reading=True
            ),
            batch,
        )
