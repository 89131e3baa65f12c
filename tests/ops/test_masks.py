import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
from hypothesis import given

from visor_jax.ops.masks import (
    MaskForm,
    TokenTags,
    form_between,
    mask_bias,
    sees_shared,
    visible,
)

# The table at the top of the module.
TABLE = """
    x . . . . .
    x x . . . .
    x x x . . .
    x x x x . .
    x x . . x .
    x x . . x x
"""


def tags(positions, segments, valid=None):
    valid = [True] * len(positions) if valid is None else valid
    return TokenTags(
        jnp.array([positions]), jnp.array([segments]), jnp.array([valid], bool)
    )


def table(text):
    rows = [line.split() for line in text.strip().splitlines()]
    return np.array([[mark == "x" for mark in row] for row in rows])


def test_drawn_example():
    tokens = tags([0, 1, 2, 3, 2, 3], [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(visible(tokens, tokens)[0], table(TABLE))


def test_invalid_keys_are_seen_by_nobody():
    tokens = tags([0, 1, 2], [0, 0, 0], [True, False, True])
    expected = table("x . .\n x . .\n x . x")
    np.testing.assert_array_equal(visible(tokens, tokens)[0], expected)


def test_shared_tokens_do_not_see_a_question():
    shared, question = tags([5], [0]), tags([3], [1])
    assert not visible(shared, question).any()
    assert visible(tags([5], [1]), question).all()


def test_two_token_lists_side_by_side():
    image, text = tags([0, 1], [0, 0]), tags([2, 3], [1, 2])
    both = image.concat(text)
    one = visible(text, both)
    other = jnp.concatenate([visible(text, image), visible(text, text)], axis=-1)
    np.testing.assert_array_equal(one, other)


@given(seed=st.integers(0, 2**16))
def test_who_sees_any_of_the_shared_tokens(seed):
    rng = np.random.default_rng(seed)
    image = tags(rng.integers(0, 9, 4), np.zeros(4, int), rng.random(4) < 0.5)
    text = tags(rng.integers(0, 9, 6), rng.integers(0, 3, 6))
    expected = visible(text, image).any(axis=-1)
    np.testing.assert_array_equal(sees_shared(text, image), expected)


def test_bias_keeps_scores_or_hides_them():
    tokens = tags([0, 1, 2, 3, 2, 3], [0, 0, 1, 1, 2, 2])
    bias = np.asarray(mask_bias(tokens, tokens)[0])
    np.testing.assert_array_equal(bias == 0, table(TABLE))
    assert (np.exp(bias) == table(TABLE)).all()


def test_what_is_known_of_the_mask_of_two_streams():
    image = tags([2, 3], [0, 0]).replace(form=MaskForm.WHOLE)
    text = tags([0, 1, 4], [0, 0, 0]).replace(form=MaskForm.CAUSAL)
    packed = tags([4, 4], [1, 2])
    both = image.concat(text)
    assert both.form is text.concat(image).form is MaskForm.CAUSAL
    assert image.concat(image).form is MaskForm.CAUSAL
    assert image.concat(packed).form is packed.concat(text).form is MaskForm.TAGS
    assert form_between(both, both) is form_between(image, image) is MaskForm.CAUSAL
    assert form_between(packed, packed) is MaskForm.TAGS
    assert form_between(text, image) is form_between(packed, image) is MaskForm.WHOLE
    # Text behind the image sees it, and then some of the text.
    assert form_between(text, both) is form_between(image, text) is MaskForm.TAGS
    assert text.take(jnp.array([[2, 0]])).form is MaskForm.CAUSAL
