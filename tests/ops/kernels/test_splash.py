"""splash is there to compare with: by name alone, and where it can say the mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.kernels import numpy_attention
from tests.tolerances import GRADIENT, REFERENCE
from visor_jax.ops.attention import chosen
from visor_jax.ops.kernels.kernel import KeyPart
from visor_jax.ops.kernels.splash import splash_attend
from visor_jax.ops.masks import MaskForm


def array(*shape, dtype="bfloat16"):
    return jax.ShapeDtypeStruct(shape, dtype)


def parts_of(tokens, form, key):
    return [KeyPart(key, key, tokens.tags, form)]


@pytest.fixture
def tokens():
    return numpy_attention.unpacked(np.random.default_rng(0), 256)


@pytest.mark.parametrize("platform", ["tpu", "gpu", "cpu"])
def test_auto_never_takes_it(tokens, platform):
    query = array(numpy_attention.BATCH, 256, 4, 64)
    with jax.set_mesh(jax.make_mesh((1,), ("data",))):
        for parts in (
            parts_of(tokens, MaskForm.CAUSAL, query),
            [KeyPart(query, query, None)],
        ):
            assert chosen(query, parts, platform=platform) != "splash"
            if platform == "tpu":
                assert chosen(query, parts, kernel="splash", platform="tpu") == "splash"


REFUSED = {
    "splash is a kernel for TPUs, not gpu": ((256, 64, "bfloat16"), None, "gpu"),
    "not .*float16": ((256, 64, "float16"), None, "tpu"),
    "heads 264 wide": ((256, 264, "bfloat16"), None, "tpu"),
    "heads 68 wide": ((256, 68, "bfloat16"), None, "tpu"),
    "127 queries are fewer": ((127, 64, "bfloat16"), None, "tpu"),
    "nothing is known of the mask": ((256, 64, "bfloat16"), MaskForm.TAGS, "tpu"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_it_says_what_it_cannot_do(tokens, reason):
    (queries, width, dtype), form, platform = REFUSED[reason]
    query = array(2, queries, 4, width, dtype=dtype)
    parts = [KeyPart(query, query, None)]
    if form is not None:
        parts = parts_of(tokens, form, query)
    with (
        jax.set_mesh(jax.make_mesh((1,), ("data",))),
        pytest.raises(ValueError, match=f"'splash' cannot be used here.*{reason}"),
    ):
        chosen(query, parts, kernel="splash", platform=platform)


def attend(query, key, tags, form):
    return splash_attend(query, key, key, tags, form=form, block=128, interpret=True)


def test_invalid_queries_give_zeros_and_no_gradient(tokens):
    """...those of a row without any key among them."""
    rng = np.random.default_rng(1)
    query = jnp.asarray(rng.normal(size=(numpy_attention.BATCH, 256, 1, 64)), "float32")
    valid = tokens.tags.valid.at[0].set(False).at[1, 200:].set(False)
    tags = tokens.tags.replace(valid=valid)

    @jax.jit
    def run(query):
        out, pull = jax.vjp(lambda q: attend(q, query, tags, MaskForm.CAUSAL), query)
        return out, *pull(jnp.ones_like(out))

    out, gradient = run(query)
    for found in (out, gradient):
        assert np.abs(found[np.asarray(valid)]).max() > 0.1
        np.testing.assert_array_equal(found[~np.asarray(valid)], 0)


def test_a_row_without_an_image_leaves_its_neighbour_alone(tokens):
    rng = np.random.default_rng(1)
    query, key = (
        jnp.asarray(rng.normal(size=(numpy_attention.BATCH, 256, 1, 64)), "float32")
        for _ in range(2)
    )
    valid = tokens.tags.valid.at[0].set(False)
    tags = tokens.tags.replace(valid=valid)
    mask = np.zeros((numpy_attention.BATCH, 256, 256), bool)
    mask[1] = np.asarray(valid)[1]
    weight = np.zeros(query.shape)
    weight[1] = rng.normal(size=query.shape[1:])
    expected, (d_query, d_key, d_value) = numpy_attention.attention(
        query, key, key, mask, weight
    )

    @jax.jit
    def run(query, key):
        out, pull = jax.vjp(lambda q, k: attend(q, k, tags, MaskForm.WHOLE), query, key)
        return out, *pull(jnp.asarray(weight, "float32"))

    out, *gradients = run(query, key)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out[1], expected[1], **REFERENCE)
    for found, wanted in zip(gradients, (d_query, d_key + d_value), strict=True):
        np.testing.assert_allclose(found, wanted, **GRADIENT)


def test_a_mask_of_which_nothing_is_known_is_no_causal_one(tokens):
    query = jnp.zeros((numpy_attention.BATCH, 256, 1, 64))
    with pytest.raises(ValueError, match=r"TAGS cannot be said by lengths: nothing is"):
        attend(query, query, tokens.tags, MaskForm.TAGS)
