"""Who may look at whom: attention masks derived from tags, never from a token's index.

A key is visible to a query if it is valid, does not lie after the query in `order`, and
belongs to segment 0 (shared) or to the query's own segment. Example: two image tokens,
then two packed questions of two tokens each; rows are queries, x = visible:

                    image  q1   q2
    order           0 1   2 3  2 3
    segment         0 0   1 1  2 2
    image  0        x .   . .  . .
           1        x x   . .  . .
    q1     2        x x   x .  . .
           3        x x   x x  . .
    q2     2        x x   . .  x .
           3        x x   . .  x x

Because nothing depends on where a token stands in memory, streams can be concatenated
in any order and tokens can be dropped by a gather.
"""

import enum

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Finite, so that a row without any visible key gives a mean of values, not NaN.
HIDDEN = -1e30


@jax.tree_util.register_static
class MaskForm(enum.Enum):
    """What is known of a mask when a program is made, for kernels that read no tags.

    TAGS: nothing. CAUSAL: all tokens are of segment 0, so that order and validity alone
    decide among them. WHOLE: besides, no token of another stream stands between them,
    so that one from there sees all of them that are valid, or none.
    """

    TAGS = "tags"
    CAUSAL = "causal"
    WHOLE = "whole"


@flax.struct.dataclass
class TokenTags:
    """What masks need to know of every token of a stream.

    order: (B, T) place in the interleaved sequence of image and text. It says who comes
      before whom and never changes, whatever rotary positions a token has.
    segments: (B, T), 0 = seen by every later token, else the token's own group.
    valid: (B, T), False for padding.
    form: what holds in every row, by the word of who made the tags. Static: tags of
      unlike forms are unlike pytrees.
    """

    order: Int[Array, "B T"]
    segments: Int[Array, "B T"]
    valid: Bool[Array, "B T"]
    form: MaskForm = flax.struct.field(pytree_node=False, default=MaskForm.TAGS)

    def concat(self, other: "TokenTags") -> "TokenTags":
        """Returns the tags of both token lists, `self` first."""
        return TokenTags(
            order=jnp.concatenate([self.order, other.order], axis=1),
            segments=jnp.concatenate([self.segments, other.segments], axis=1),
            valid=jnp.concatenate([self.valid, other.valid], axis=1),
            form=_form_of_both(self.form, other.form),
        )

    def take(self, indices: Int[Array, "B R"]) -> "TokenTags":
        """Returns the tags of the tokens at these indices of each row."""
        return jax.tree.map(lambda x: jnp.take_along_axis(x, indices, axis=1), self)


def _form_of_both(one: MaskForm, other: MaskForm) -> MaskForm:
    known = MaskForm.TAGS not in (one, other)
    return MaskForm.CAUSAL if known else MaskForm.TAGS


def form_between(query: TokenTags, key: TokenTags) -> MaskForm:
    """Returns what is known of the mask between these queries and keys.

    CAUSAL is said only of queries that are the keys' own tokens, which the same object
    tells; then WHOLE says no more than that.
    """
    if query is key:
        return _form_of_both(query.form, key.form)
    return MaskForm.WHOLE if key.form is MaskForm.WHOLE else MaskForm.TAGS


def visible(query: TokenTags, key: TokenTags) -> Bool[Array, "B Q M"]:
    """Returns which keys each query may attend to (the table at the top)."""
    not_after = key.order[:, None, :] <= query.order[:, :, None]
    shared = key.segments[:, None, :] == 0
    own = key.segments[:, None, :] == query.segments[:, :, None]
    return key.valid[:, None, :] & not_after & (shared | own)


def sees_shared(query: TokenTags, key: TokenTags) -> Bool[Array, "B Q"]:
    """Returns whether each query sees any key of segment 0 (the image is all that).

    The same as `visible(...).any(axis=-1)` there, without an array of both lengths.
    """
    never = jnp.iinfo(key.order.dtype).max
    shared = key.valid & (key.segments == 0)
    first = jnp.where(shared, key.order, never).min(axis=1, keepdims=True)
    return first <= query.order


def mask_bias(query: TokenTags, key: TokenTags) -> Float[Array, "B Q M"]:
    """Returns what is added to the scores: 0 where visible, else `HIDDEN`; float32."""
    return jnp.where(visible(query, key), jnp.float32(0), jnp.float32(HIDDEN))


def last_valid(tags: TokenTags) -> Int[Array, "B"]:
    """Returns the index of each row's valid token that is last in order.

    Example: the x of rows padded on the right and on the left,

        valid  1 1 1 0    0 0 1 1
        order  2 3 4 0    0 0 2 3
                   x            x
    """
    return jnp.argmax(jnp.where(tags.valid, tags.order, -1), axis=1)
