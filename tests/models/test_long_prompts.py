"""Long prompts: no array grows with the square of the length, and nothing changes."""

import dataclasses
import math
from collections.abc import Iterator

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from jax.extend import core

from tests import tiny
from tests.flops import abstract_model
from tests.tolerances import GRADIENT, REORDERED
from visor_jax.models.variants import llava_ov_0p5b
from visor_jax.models.vision import siglip
from visor_jax.models.vision.siglip import group_size
from visor_jax.models.vlm import VLM

# A page of 1700 by 2200 pixels: 30 tiles and the whole.
CROPS, IMAGE, TEXT = 31, 7353, 40
# All layers of a kind are alike: their full widths matter, not how many they are.
VISION = dataclasses.replace(llava_ov_0p5b().vision, num_layers=1)
FULL = llava_ov_0p5b().replace(vision=VISION)
LONGEST_PLAIN = "visor_jax.ops.kernels.plain.LONGEST_PLAIN"


def shapes_in(jaxpr: core.Jaxpr) -> Iterator[tuple[int, ...]]:
    """Yields the shape of everything that the program computes, loops included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for value in equation.params.values():
            for item in value if isinstance(value, list | tuple) else (value,):
                inner = getattr(item, "jaxpr", item)
                if isinstance(inner, core.Jaxpr):
                    yield from shapes_in(inner)


def prefill_shapes(config, *, text=TEXT):
    inputs = abstract_model.abstract_batch(
        config, batch=1, crops=CROPS, image_tokens=IMAGE, text_tokens=text
    )
    params = abstract_model.abstract_params(config, inputs)
    program = abstract_model.prefill(config, tiny.all_on(config))
    return set(shapes_in(jax.make_jaxpr(program)(params, inputs).jaxpr))


def quadratic(shapes):
    """Returns the shapes with two axes of about the length of the prompt."""
    return {s for s in shapes if sum(size >= IMAGE // 2 for size in s) >= 2}


def without_weights(shapes):
    """Returns the shapes but for the embedding table turned round."""
    return {s for s in shapes if FULL.decoder.vocab_size not in s}


@pytest.fixture(scope="module")
def dense_shapes():
    plan = type(FULL.plan).dense(2)
    return prefill_shapes(FULL.replace(plan=plan))


def test_prefill_holds_no_array_of_length_squared(dense_shapes):
    assert (1, IMAGE + TEXT, FULL.decoder.width) in dense_shapes
    # Wide as the MLP, long as the prompt: linear.
    linear = (1, IMAGE + TEXT, FULL.decoder.mlp_width)
    assert quadratic(dense_shapes) <= {linear, linear[1:]}


def test_nothing_is_larger_than_the_widest_layer_needs(dense_shapes):
    """...and 31 crops take no more than a few at a time."""
    largest = max(map(math.prod, without_weights(dense_shapes)))
    assert largest == (IMAGE + TEXT) * FULL.decoder.mlp_width


def test_logits_are_those_of_one_token(dense_shapes):
    vocabulary = FULL.decoder.vocab_size
    logits = {s[:-1] for s in dense_shapes if s[-1:] == (vocabulary,)}
    assert {math.prod(s) for s in logits} <= {1, FULL.decoder.width}


def test_long_texts_of_a_visor_network_are_no_exception():
    kinds = type(FULL.plan).build(3, cross=(0, 2), self_=(1,))
    shapes = prefill_shapes(FULL.replace(plan=kinds), text=IMAGE)
    linear = {FULL.decoder.mlp_width, FULL.decoder.vocab_size}
    assert all(linear & set(s) for s in quadratic(shapes))


def test_the_plain_form_would_hold_one(monkeypatch):
    monkeypatch.setattr(LONGEST_PLAIN, 10**9)
    shapes = prefill_shapes(FULL.replace(plan=type(FULL.plan).dense(1)), text=IMAGE)
    # Text looks at the image: scores of all heads of a group, one for every pair.
    assert any(
        s[-1] == IMAGE and s[-2] % IMAGE == 0 for s in quadratic(shapes) if len(s) > 1
    )


def test_the_network_is_the_same_in_either_form(monkeypatch):
    config, batch = tiny.NETWORKS["grouped"], tiny.random_batch(tiny.VISOR)
    params, mask = tiny.params_of(config), batch.text_mask

    def loss(params, batch):
        logits = VLM(config).apply(params, batch, tiny.all_on(config)).logits
        chosen = jnp.take_along_axis(
            jax.nn.log_softmax(logits), batch.targets[..., None], axis=-1
        )
        return -(chosen[..., 0] * mask).sum() / mask.sum(), logits

    def run():
        # A new function each time: the form is no part of what jit remembers.
        return jax.jit(jax.value_and_grad(lambda *a: loss(*a), has_aux=True))(
            params, batch
        )

    (_, expected), expected_gradient = run()
    monkeypatch.setattr(LONGEST_PLAIN, 0)
    (_, found), gradient = run()
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found[mask], expected[mask], **REORDERED)
    pairs = map(jax.tree.leaves, (gradient, expected_gradient))
    for one, other in zip(*pairs, strict=True):
        np.testing.assert_allclose(one, other, **GRADIENT)


@pytest.mark.parametrize(("samples", "crops"), [(1, 7), (2, 5), (2, 2)])
def test_crops_in_groups_have_the_features_of_all_at_once(monkeypatch, samples, crops):
    rng, params = np.random.default_rng(0), tiny.params_of(tiny.VISOR)
    pixels = jnp.asarray(rng.normal(size=(samples, crops, 14, 14, 3)), jnp.float32)

    def features():
        def tower(model, pixels):
            return model.vision_tower.of_samples(pixels)

        run = jax.jit(lambda p, x: VLM(tiny.VISOR).apply(p, x, method=tower))
        return run(params, pixels), str(jax.make_jaxpr(run)(params, pixels))

    expected, plain = features()
    monkeypatch.setattr(siglip, "PATCHES_AT_ONCE", 3 * 9)
    found, grouped = features()
    assert "scan" in grouped
    assert "scan" not in plain
    np.testing.assert_allclose(found, expected, **REORDERED)


@given(crops=st.integers(1, 100), most=st.integers(-1, 40))
def test_groups_are_large_and_leave_little_to_fill(crops, most):
    size, bound = group_size(crops, most), max(1, min(most, crops))
    assert bound / 2 <= size <= bound
    # No other size in these bounds leaves less.
    sizes = [s for s in range(1, bound + 1) if s > bound // 2]
    assert -crops % size == min(-crops % s for s in sizes)


def test_groups_of_the_longest_pages():
    assert [group_size(crops, 4) for crops in (1, 4, 5, 10, 31, 37)] == [
        *(1, 4, 3, 4, 4, 3)
    ]
