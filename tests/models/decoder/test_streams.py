"""What may and what may not influence a token: order, padding, other questions."""

import functools
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import passes, tiny
from tests.tiny import NETWORKS, VISOR, Sample
from tests.tolerances import REORDERED
from visor_jax.models.decoder.decoder_layer import DecoderLayer
from visor_jax.models.vlm import VLM, begin_batch
from visor_jax.ops.masks import TokenTags

FLOAT32 = jnp.dtype("float32")


def logits_of(config, batch, gates=None):
    gates = tiny.all_on(config) if gates is None else gates
    params = tiny.params_of(config)
    output = tiny.forward_static(params, batch, config=config, gates=gates)
    return np.asarray(output.logits)


@functools.partial(jax.jit, static_argnames=("config", "gates"))
def _streams(params, batch, *, config, gates):
    def run(model, batch):
        begun = begin_batch(model, batch)
        after, _ = model.run(begun, gates)
        return begun.image.hidden, after.text.hidden, after.image.hidden

    return VLM(config).apply(params, batch, method=run)


def streams_of(config, batch, gates):
    """Returns the image stream before, and text and image after all layers."""
    return _streams(tiny.params_of(config), batch, config=config, gates=gates)


@functools.cache
def layer_and_streams(seed=0):
    """Returns a bound SELF layer with random text and image streams to run it on."""
    batch = tiny.random_batch(VISOR, seed=seed)
    params = tiny.params_of(VISOR)
    model = VLM(VISOR).bind(params)
    layer = DecoderLayer(VISOR.decoder, None, FLOAT32)
    weights = params["params"]["language_model"]["layers_1"]
    device = tiny.on_device(batch)
    text, image = passes.streams(model, device)
    return layer.bind({"params": weights}), text, image, batch


def test_shut_self_layers_leave_the_image_stream_bit_identical():
    for config in (NETWORKS["dense"], VISOR, NETWORKS["unread_self"]):
        off = (False,) * len(config.plan.self_layers)
        before, _, after = streams_of(config, tiny.random_batch(config), off)
        np.testing.assert_array_equal(before, after)


def test_traced_shut_gate_leaves_the_image_stream_bit_identical():
    batch, params = tiny.random_batch(VISOR), tiny.params_of(VISOR)

    def run(model, batch, gates):
        begun = begin_batch(model, batch)
        after, _ = model.run(begun, gates)
        return begun.image.hidden, after.image.hidden

    both = jax.jit(lambda *args: VLM(VISOR).apply(*args, method=run))
    before, after = both(params, batch, jnp.zeros(2, bool))
    np.testing.assert_array_equal(before, after)
    before, after = both(params, batch, jnp.array([False, True]))
    assert np.abs(np.asarray(before - after)[batch.image_mask]).max() > 0.01


@pytest.mark.parametrize("name", ["visor", "dense"])
def test_packed_questions_are_answered_as_if_alone(name):
    config, questions = NETWORKS[name], (4, 3, 5)
    packed = tiny.random_batch(
        config, [Sample(before=2, image=9, questions=questions)], padding=0
    )
    together = logits_of(config, packed)[0]
    start = 2
    for length in questions:
        keep = np.r_[0:2, start : start + length]
        # Padded to one length, so that all questions share one program.
        keep = np.r_[keep, np.zeros(7 - len(keep), int)]
        alone = packed.replace(
            **{
                field: getattr(packed, field)[:, keep]
                for field in (
                    *("tokens", "text_positions", "text_mask"),
                    *("targets", "loss_mask"),
                )
            },
            text_segments=np.zeros((1, 7), np.int32),
        )
        valid = np.arange(7)[None] < 2 + length
        alone = alone.replace(text_mask=alone.text_mask & valid)
        answers = logits_of(config, alone)[0, 2 : 2 + length]
        np.testing.assert_allclose(
            together[start : start + length], answers, **REORDERED
        )
        start += length


def test_one_batch_gives_what_its_samples_give_alone():
    batch = tiny.random_batch(VISOR)
    together = logits_of(VISOR, batch)
    for row in range(batch.size):
        alone = logits_of(VISOR, batch.map(lambda x, row=row: x[row : row + 1]))
        mask = batch.text_mask[row]
        np.testing.assert_allclose(together[row][mask], alone[0][mask], **REORDERED)


def test_order_of_concatenation_does_not_matter():
    layer, text, image, batch = layer_and_streams()
    text_there, image_there, _ = layer.full(text, image)
    # The layer puts its second argument first.
    image_back, text_back, _ = layer.full(image, text)
    for mask, one, other in (
        (batch.text_mask, text_there, text_back),
        (batch.image_mask, image_there, image_back),
    ):
        np.testing.assert_allclose(one.hidden[mask], other.hidden[mask], **REORDERED)


@pytest.mark.parametrize("name", ["dense", "visor"])
def test_order_of_image_tokens_in_memory_does_not_matter(name):
    """...outside a CROSS layer, whose convolution reads the order by design."""
    config = NETWORKS[name]
    batch = tiny.random_batch(config, [Sample(before=2, image=11, questions=(4,))])
    params = tiny.params_of(config)
    if config.plan.cross_layers:
        params = jax.tree.map_with_path(
            lambda path, x: 0 * x if path[-1].key == "position_conv" else x, params
        )
    order = np.random.default_rng(0).permutation(batch.image_mask.shape[1])
    moved = batch.replace(
        **{
            field: getattr(batch, field)[:, order]
            for field in ("image_token_index", "image_positions", "image_mask")
        }
    )
    run = functools.partial(
        tiny.forward_static, config=config, gates=tiny.all_on(config)
    )
    mask = batch.text_mask
    one, other = run(params, batch).logits, run(params, moved).logits
    np.testing.assert_allclose(
        np.asarray(one)[mask], np.asarray(other)[mask], **REORDERED
    )


def test_convolution_of_cross_layers_reads_the_order_of_image_tokens():
    config = NETWORKS["cross_only"]
    batch = tiny.random_batch(config, [Sample(image=11, questions=(4,))])
    moved = batch.replace(image_token_index=batch.image_token_index.copy())
    moved.image_token_index[:, :11] = batch.image_token_index[:, 10::-1]
    change = logits_of(config, batch) - logits_of(config, moved)
    assert np.abs(change[batch.text_mask]).max() > 0.01


def test_image_reads_the_text_before_it_and_not_the_text_after_it():
    config = NETWORKS["dense"]
    batch = tiny.random_batch(config, [Sample(before=3, image=8, questions=(4,))])
    _, _, image = streams_of(config, batch, tiny.all_on(config))
    mask = batch.image_mask
    for place, read in ((0, True), (2, True), (3, False), (6, False)):
        tokens = batch.tokens.copy()
        tokens[0, place] = (tokens[0, place] + 1) % config.decoder.vocab_size
        changed = streams_of(config, batch.replace(tokens=tokens), tiny.all_on(config))[
            2
        ]
        change = np.abs(np.asarray(changed - image))[mask].max(axis=-1)
        if read:
            assert change.min() > 1e-4
        else:
            assert change.max() == 0


def test_text_before_the_image_does_not_see_it():
    sample = Sample(before=3, image=8, questions=(4,))
    for name in ("visor", "dense", "cross_only"):
        config = NETWORKS[name]
        batch = tiny.random_batch(config, [sample])
        other = batch.replace(pixels=batch.pixels + 1.0)
        change = np.abs(logits_of(config, batch) - logits_of(config, other))[0]
        assert change[:3].max() == 0
        assert change[3:7].max(axis=-1).min() > 1e-4


def test_token_that_sees_no_image_passes_the_adapter_unchanged():
    batch = tiny.random_batch(VISOR)
    params = tiny.params_of(VISOR)

    def run(model, batch):
        text, image = passes.streams(model, batch)
        adapter = model.language_model.layers[0].cross_attention
        kv = adapter.keys_values(image)
        return text.hidden, adapter(text, kv, image.tags)

    before, after = jax.jit(lambda p, b: VLM(VISOR).apply(p, b, method=run))(
        params, batch
    )
    change = np.abs(np.asarray(after - before)).max(axis=-1)
    # SAMPLES: all text after the image; 3 tokens before it; no image; all before it.
    assert change[0, :7].min() > 1e-3
    assert change[1, :3].max() == 0
    assert change[1, 3:8].min() > 1e-3
    assert change[2, :6].max() == 0
    assert change[3, :2].max() == 0


def test_new_adapters_change_nothing():
    config = VISOR.replace(plan=tiny.LayerPlan.build(2, cross=(0,), self_=(1,)))
    # As created, but for the embeddings, which the adapters could not ignore.
    params = tiny.initial_params(config)
    off = (False,)
    batch = tiny.random_batch(config)
    logits = tiny.forward_static(params, batch, config=config, gates=off).logits
    decoder = dict(params["params"]["language_model"])
    decoder["layers_0"] = dict(decoder["layers_0"])
    del decoder["layers_0"]["cross_attention"]
    plain = {"params": params["params"] | {"language_model": decoder}}
    without = config.replace(plan=tiny.LayerPlan.build(2, self_=(1,)))
    expected = tiny.forward_static(plain, batch, config=without, gates=off).logits
    np.testing.assert_array_equal(logits, expected)


def test_text_is_the_same_whether_the_unread_image_is_computed_or_not():
    layer, text, image, batch = layer_and_streams()
    both, _, cache = layer.full(text, image)
    only, untouched, lean_cache = layer.full_for_text(text, image)
    mask = batch.text_mask
    np.testing.assert_allclose(both.hidden[mask], only.hidden[mask], **REORDERED)
    assert untouched is image
    for one, other in zip(
        jax.tree.leaves(cache), jax.tree.leaves(lean_cache), strict=True
    ):
        np.testing.assert_allclose(one, other, **REORDERED)


def test_image_that_nobody_reads_later_is_left_alone():
    config = NETWORKS["unread_self"]
    batch = tiny.random_batch(config)
    # SELF 0, 2, 3 and CROSS 1: after layer 3 nobody reads, after layer 2 layer 3 may.
    before, _, after = streams_of(config, batch, (False, False, True))
    np.testing.assert_array_equal(before, after)
    before, _, after = streams_of(config, batch, (False, True, False))
    np.testing.assert_array_equal(before, after)
    before, _, after = streams_of(config, batch, (False, True, True))
    assert np.abs(np.asarray(before - after)[batch.image_mask]).max() > 0.01


def test_running_the_layers_in_spans_changes_nothing():
    batch, params = tiny.random_batch(VISOR), tiny.params_of(VISOR)

    def run(model, batch, cuts):
        state = begin_batch(model, batch)
        for start, stop in itertools.pairwise(cuts):
            state, _ = model.run(state, (True, True), start=start, stop=stop)
        return state.text.hidden

    run_jit = jax.jit(
        lambda p, b, cuts: VLM(VISOR).apply(p, b, cuts, method=run),
        static_argnums=2,
    )
    whole, parts = run_jit(params, batch, (0, 6)), run_jit(params, batch, (0, 1, 4, 6))
    np.testing.assert_allclose(whole, parts, **REORDERED)


@hypothesis.given(seed=st.integers(0, 2**16), name=st.sampled_from(["visor", "dense"]))
@hypothesis.settings(max_examples=15)
def test_padding_never_reaches_a_valid_token(seed, name):
    config, rng = NETWORKS[name], np.random.default_rng(seed)
    batch = tiny.random_batch(config)

    def noise(field, mask, high):
        values = getattr(batch, field)
        return np.where(mask, values, rng.integers(0, high, values.shape)).astype(
            values.dtype
        )

    places = 2 * config.vision.num_patches + 1
    changed = batch.replace(
        image_token_index=noise("image_token_index", batch.image_mask, places),
        image_positions=noise("image_positions", batch.image_mask, 40),
        tokens=noise("tokens", batch.text_mask, config.decoder.vocab_size),
        text_positions=noise("text_positions", batch.text_mask, 40),
        text_segments=noise("text_segments", batch.text_mask, 3),
        targets=rng.integers(0, 9, batch.targets.shape).astype(np.int32),
    )
    mask = batch.text_mask
    np.testing.assert_array_equal(
        logits_of(config, batch)[mask], logits_of(config, changed)[mask]
    )


@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=15)
def test_scattered_padding_is_as_good_as_padding_at_the_end(data):
    """Valid text tokens may lie anywhere among the slots (left padding, holes)."""
    batch = tiny.random_batch(VISOR, [Sample(before=2, image=9, questions=(3, 2))])
    length = batch.tokens.shape[1]
    order = np.array(data.draw(st.permutations(range(length))))
    moved = batch.map(lambda x: x[:, order] if x.shape[1:] == (length,) else x)
    assert moved.tokens.shape == batch.tokens.shape
    mask = moved.text_mask[0]
    np.testing.assert_allclose(
        logits_of(VISOR, moved)[0][mask],
        logits_of(VISOR, batch)[0][order][mask],
        **REORDERED,
    )


def test_sample_without_any_valid_token_stays_finite():
    batch = tiny.random_batch(VISOR, [Sample(), Sample(image=5, questions=(3,))])
    assert np.isfinite(logits_of(VISOR, batch)).all()


def test_tags_concatenate_in_order():
    def tags(value):
        row = jnp.full((1, 2), value)
        return TokenTags(row, row, row > 0)

    both = tags(1).concat(tags(2))
    np.testing.assert_array_equal(both.order, [[1, 1, 2, 2]])
