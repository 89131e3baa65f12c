"""Methods with a stage before the decoder and one inside it, against NumPy's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import passes, tiny, tolerances
from tests.flops import abstract_model
from tests.flops.jaxpr_flops import count_flops
from tests.inference.prompts import extended
from tests.models.numpy_reference import Token
from tests.token_reduction import numpy_methods, pictures
from tests.token_reduction.pictures import PLAIN
from tests.token_reduction.test_contract import all_pairs
from visor_jax.budget import Budget
from visor_jax.flops.account import account
from visor_jax.flops.cache_bytes import cache_bytes
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.decoder.kv_cache import KVCache
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.decoder.token_reducer import selection_flops
from visor_jax.models.vlm import VLM
from visor_jax.ops.masks import TokenTags
from visor_jax.token_reduction.crops.repulsion import Repulsion
from visor_jax.token_reduction.crops.todre import ToDRE
from visor_jax.token_reduction.crops.vscan import VScan
from visor_jax.token_reduction.registry import fitted, parse
from visor_jax.token_reduction.solve import TEXT_TOKENS
from visor_jax.token_reduction.two_stages.sts import STS
from visor_jax.token_reduction.two_stages.todre import ToDREBothStages
from visor_jax.token_reduction.two_stages.vscan import VScanBothStages

CONFIG = pictures.CONFIG.replace(plan=LayerPlan.dense(3))
PARAMS, GATES = tiny.params_of(CONFIG), tiny.all_on(CONFIG)
KEEP, NEW = 0.15, 8
PROMPT = pictures.batch_of(PLAIN[1:])
FIRST = {
    STS(keep=KEEP, decoder_layer=2): Repulsion(keep=KEEP),
    STS(keep=KEEP, decoder_layer=2, asking="last"): Repulsion(keep=KEEP),
    VScanBothStages(keep=KEEP, decoder_layer=1, local_layer=0, windows=2): VScan(
        keep=KEEP, local_layer=0, windows=2
    ),
}
named = pytest.mark.parametrize("method", FIRST, ids=["sts", "sts_last", "vscan"])


@functools.partial(jax.jit, static_argnames="method")
def stepwise(prompt, tokens, tags, *, method):
    """Returns what the crops leave, all text's logits, and the cache."""

    def run(model):
        image = model.encode_image(
            *(prompt.pixels, prompt.image_token_index),
            mask=prompt.image_mask,
        )
        every = jnp.arange(prompt.tokens.shape[1]) + 0 * prompt.tokens
        logits, cache = passes.prefill(model, prompt, GATES, every)
        cache = cache.with_capacity(prompt.tokens.shape[1] + NEW)
        new, _ = model.decode(tokens, tags, cache, GATES)
        return image, jnp.concatenate([logits, new], axis=1), cache

    return VLM(CONFIG, method).apply(PARAMS, method=run)


@functools.cache
def whole():
    """Returns the prompts and `NEW` tokens behind each."""
    tokens = np.random.default_rng(3).integers(0, 40, (PROMPT.size, NEW), np.int32)
    return extended(PROMPT, tokens)


@functools.cache
def found(method):
    batch, last = whole(), slice(-NEW, None)
    names = ("text_positions", "text_segments", "text_mask")
    tags = TokenTags(*(getattr(batch, name)[:, last] for name in names))
    return stepwise(PROMPT, batch.tokens[:, last], tags, method=method)


def left_by_crops(image, row):
    """Returns the first stage's tokens; that stage has its own tests."""
    there = np.asarray(image.there)[row]
    kept = np.asarray(image.kept)[row][there]
    hidden = np.asarray(image.hidden, np.float64)[row][there]
    places = np.asarray(PROMPT.image_positions)[row][kept]
    return [Token(h, int(p), 0) for h, p in zip(hidden, places, strict=True)]


def expected(image, row, method, wanted=None):
    lengths = PROMPT.text_mask.sum(axis=1)
    first = left_by_crops(image, row)
    if isinstance(method, ToDREBothStages):
        threshold, shares = method.threshold, wanted
        oracle = numpy_methods.todre(first, method.decoder_layer, threshold, shares)
    else:
        asking = getattr(method, "asking", "last")
        oracle = numpy_methods.later_stage(
            first, method.decoder_layer, method.remaining, asking
        )
    return numpy_methods.logits(
        PARAMS, CONFIG, whole(), row, oracle, prompt=lengths[row]
    )


def check_logits(method, shares=None):
    image, logits, _ = found(method)
    worst = 0.0
    for row in range(PROMPT.size):
        own = np.asarray(logits)[row][whole().text_mask[row]]
        wanted = expected(image, row, method, None if shares is None else shares[row])
        np.testing.assert_allclose(own, wanted, **tolerances.REFERENCE)
        worst = max(worst, np.abs(own - np.roll(wanted, 1, axis=0)).max())
    # Logits of the token beside would not pass for these.
    assert worst > 1e-2


@named
def test_prompts_and_8_tokens_are_numpys(method):
    check_logits(method)


def test_todre_lets_everything_go_where_nobody_looks():
    """...of one prompt, and nothing of the one beside it."""
    method = ToDREBothStages(keep=KEEP, decoder_layer=2, threshold=0.73)
    shares = [[], []]
    check_logits(method, shares)
    dropped = [max(each) < method.threshold for each in shares]
    assert sorted(dropped) == [False, True], shares
    _, _, cache = found(method)
    valid = cache.layers[2].image_tags.valid.any(axis=1)
    assert valid.tolist() == [not each for each in dropped]
    assert cache.layers[1].image_tags is None


@named
def test_the_cache_is_as_long_as_it_is_said_to_be(method):
    _, _, cache = found(method)
    tokens = PROMPT.image_mask.shape[1]
    lengths = method.image_lengths(tokens, 3)
    assert lengths[0] == int(KEEP * tokens) > lengths[-1] == int(lengths[0] / 3)
    shape = {
        "rows": PROMPT.size,
        "text_slots": whole().tokens.shape[1],
        "image_tokens": tokens,
    }
    formula = cache_bytes(
        CONFIG, Budget.all(CONFIG.plan), **shape, image_lengths=lengths
    )
    empty = jax.eval_shape(lambda: KVCache.empty(CONFIG, GATES, method, **shape))
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), c) for c in (empty, cache)]
    assert shapes[0] == shapes[1]
    assert cache.num_bytes() == formula.total


TODRE = {ToDREBothStages(keep=KEEP, decoder_layer=2): ToDRE(keep=KEEP)}


@pytest.mark.parametrize("method", [*FIRST, *TODRE], ids=lambda m: type(m).__name__)
def test_flops_of_the_second_stage_are_those_of_the_program(method):
    lengths = {"text_tokens": 11, "image_tokens": 900, "crops": 26, "batch": 2}
    prompt = {name: lengths[name] for name in ("text_tokens", "image_tokens")}
    inputs = abstract_model.abstract_batch(CONFIG, **lengths)
    params = abstract_model.abstract_params(CONFIG, inputs)
    counted, formula = [], []
    for each in (method, {**FIRST, **TODRE}[method]):
        model = VLM(CONFIG, each)
        counted.append(
            count_flops(
                lambda p, b, model=model: model.apply({"params": p}, b, GATES).logits,
                *(params, inputs),
            )
        )
        own = account(
            CONFIG,
            Budget.all(CONFIG.plan),
            **lengths,
            image_lengths=each.image_lengths(900, 3),
            selection=selection_flops(each, CONFIG, **prompt),
        )
        formula.append(own.end_to_end)
    assert counted[0] - counted[1] == formula[0] - formula[1] != 0


def test_to_look_back_takes_no_array_of_all_pairs():
    tokens, text = 729, 11

    def back(model, image, words):
        order = jnp.zeros(image.shape[:2], jnp.int32)
        size = {"head_dim": 8, "rope_theta": 1e4}
        image, words = (
            TokenStream.create(
                x, TokenTags(o := order[:, : x.shape[1]], o, o == 0), **size
            )
            for x in (image, words)
        )
        return model.language_model.layers[0].look_back(words, image)

    run = functools.partial(VLM(CONFIG).apply, PARAMS, method=back)
    shapes = [jax.ShapeDtypeStruct((1, n, 32), jnp.float32) for n in (tokens, text)]
    assert jax.eval_shape(run, *shapes).shape == (1, tokens)
    assert not all_pairs(run, *shapes, patches=tokens)


def test_layers_are_shares_of_a_depth():
    deep = pictures.CONFIG.replace(plan=LayerPlan.dense(24))
    places = {"sts": 12, "vscan": 12, "todre": 21}
    for name, layer in places.items():
        assert fitted(parse(name), deep).stages == (layer,)
        with pytest.raises(ValueError, match=r"say of which network"):
            parse(name).image_lengths(9, 24)
        with pytest.raises(ValueError, match=r"before layer 24, but .* are 0 to 23"):
            fitted(parse(f"{name}:decoder_layer=24"), deep)
    # As 96 tokens in the first half and 32 in the other: 64 in the mean.
    lengths = fitted(parse("vscan:keep=0.25"), deep).image_lengths(384, 24)
    assert (sum(lengths) / 24, lengths[0], lengths[-1]) == (64, 96, 32)


@pytest.mark.parametrize("name", ["sts", "vscan", "todre"])
def test_a_budget_is_met_by_what_the_first_stage_keeps(name):
    tokens, depth = 384, 24
    config = pictures.CONFIG.replace(plan=LayerPlan.dense(depth))
    method = fitted(parse(f"{name}:average=64"), config)
    lengths = method.image_lengths(tokens, depth)
    # (96 + 32) / 2, and ToDRE's second stage saves nothing.
    assert (lengths[0], lengths[-1]) == ((64, 64) if name == "todre" else (96, 32))
    plain = method.in_bucket(tokens)
    assert plain.image_lengths(tokens, depth) == lengths
    assert (plain.average, plain.network) == (None, None)
    prompt = {"text_tokens": TEXT_TOKENS, "image_tokens": tokens}
    budget = Budget.all(config.plan)
    method = fitted(parse(f"{name}:llm_flops=0.5"), config)
    cost = account(
        config,
        budget,
        **prompt,
        crops=0,
        logit_positions=1,
        image_lengths=method.image_lengths(tokens, depth),
        selection=selection_flops(method, config, **prompt),
    )
    share = cost.llm_prefill / cost.dense().llm_prefill
    assert share == pytest.approx(0.5, abs=1 / tokens)
    with pytest.raises(ValueError, match=r"llm_flops=0.0001 with 384 image tokens"):
        fitted(parse(f"{name}:llm_flops=0.0001"), config).image_lengths(tokens, depth)
    with pytest.raises(ValueError, match=r"leaves no token of 384: give it more"):
        fitted(parse(f"{name}:average=0.2"), config).image_lengths(tokens, depth)


def test_crops_keep_what_the_budget_of_their_bucket_says():
    tokens = PROMPT.image_mask.shape[1]
    method = fitted(parse("sts:average=18,decoder_layer=1,by_content=0"), CONFIG)
    plain = method.in_bucket(tokens)
    assert plain.keep == pytest.approx(18 / (1 / 3 + 2 / 9) / tokens, abs=1 / tokens)
    crops = pictures.random_crops(PROMPT)
    found = jax.jit(lambda x: (method.on_crops(x).keep, plain.on_crops(x).keep))(crops)
    np.testing.assert_array_equal(*found)
    assert found[0].any()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sts:asking=all", "asking='all' is not one of"),
        ("vscan:remaining=2", "remaining=2.0 must be a share"),
        ("sts:decoder_layer=0", "decoder_layer=0 must be at least 1"),
        ("todre:threshold=-1", "threshold=-1.0 must be a share"),
        ("todre:remaining=0.5", "no setting 'remaining'"),
        ("sts:average=9,keep=0.5", "keep and average each say how many"),
        ("sts:average=9,llm_flops=0.5", "average and llm_flops each say how many"),
    ],
)
def test_settings_that_mean_nothing_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        parse(spec)
