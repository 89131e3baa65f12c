"""splash is there to compare with: by name alone, and where it can say the mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.kernels import numpy_attention
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


def test_a_row_without_any_key_gives_numbers(tokens):
    """...in which nobody asks, or an image that is not there."""
    rng = np.random.default_rng(1)
    query = jnp.asarray(rng.normal(size=(numpy_attention.BATCH, 256, 1, 64)), "float32")
    nothing = tokens.tags.replace(valid=jnp.zeros_like(tokens.tags.valid))

    @jax.jit
    def gradients(query):
        def loss(query, key):
            outs = [
                splash_attend(
                    query, key, key, nothing, form=form, block=128, interpret=True
                )
                for form in (MaskForm.WHOLE, MaskForm.CAUSAL)
            ]
            return sum(out.sum() for out in outs)

        return jax.value_and_grad(loss, argnums=(0, 1))(query, query)

    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients(query)))
