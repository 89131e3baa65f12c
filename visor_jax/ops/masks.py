"""Who may look at whom: attention masks derived from positions, never from order.

A key is visible to a query if it is valid, does not lie after the query, and belongs to
segment 0 (shared) or to the query's own segment. Example: two image tokens, then two
packed questions of two tokens each; rows are queries, x = visible:

                    image  q1   q2
    position        0 1   2 3  2 3
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

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Finite, so that a row without any visible key gives a mean of values, not NaN.
HIDDEN = -1e30


@flax.struct.dataclass
class TokenTags:
    """What masks and rotary positions need to know of every token of a stream.

    positions: (B, T) ids in the interleaved sequence of image and text.
    segments: (B, T), 0 = seen by every later token, else the token's own group.
    valid: (B, T), False for padding.
    """

    positions: Int[Array, "B T"]
    segments: Int[Array, "B T"]
    valid: Bool[Array, "B T"]

    def concat(self, other: "TokenTags") -> "TokenTags":
        """Returns the tags of both token lists, `self` first."""
        return TokenTags(
            positions=jnp.concatenate([self.positions, other.positions], axis=1),
            segments=jnp.concatenate([self.segments, other.segments], axis=1),
            valid=jnp.concatenate([self.valid, other.valid], axis=1),
        )


def visible(query: TokenTags, key: TokenTags) -> Bool[Array, "B Q M"]:
    """Returns which keys each query may attend to (the table at the top)."""
    not_after = key.positions[:, None, :] <= query.positions[:, :, None]
    shared = key.segments[:, None, :] == 0
    own = key.segments[:, None, :] == query.segments[:, :, None]
    return key.valid[:, None, :] & not_after & (shared | own)


def sees_shared(query: TokenTags, key: TokenTags) -> Bool[Array, "B Q"]:
    """Returns whether each query sees any key of segment 0 (the image is all that).

    The same as `visible(...).any(axis=-1)` there, without an array of both lengths.
    """
    never = jnp.iinfo(key.positions.dtype).max
    shared = key.valid & (key.segments == 0)
    first = jnp.where(shared, key.positions, never).min(axis=1, keepdims=True)
    return first <= query.positions


def mask_bias(query: TokenTags, key: TokenTags) -> Float[Array, "B Q M"]:
    """Returns what is added to the scores: 0 where visible, else `HIDDEN`; float32."""
    return jnp.where(visible(query, key), jnp.float32(0), jnp.float32(HIDDEN))


def last_valid(tags: TokenTags) -> Int[Array, "B"]:
    """Returns the slot of each row's valid token with the highest position.

    Example: the x of rows padded on the right and on the left,

        valid      1 1 1 0    0 0 1 1
        positions  2 3 4 0    0 0 2 3
                       x            x
    """
    return jnp.argmax(jnp.where(tags.valid, tags.positions, -1), axis=1)
