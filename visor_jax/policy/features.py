"""What the policy sees of a sample: two vectors from the layers all budgets share.

The routing token is the last text token of a prompt. It has read the question, and in
the CROSS layers of the trunk the image; in a row that packs several questions each has
one. The image is pooled over its tokens as they leave the trunk.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax.models.decoder.decoder import DecoderState
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.ops.masks import last_valid


@flax.struct.dataclass
class PolicyFeatures:
    """float32 features of R prompts in each of B rows.

    routing: hidden states of the routing tokens. image: the row's pooled image, the
    same for all its prompts; zeros without one.
    """

    routing: Float[Array, "B R D"]
    image: Float[Array, "B R D"]


def policy_features(
    trunk: DecoderState, indices: Int[Array, "B R"] | None = None
) -> PolicyFeatures:
    """Returns the features of the prompts that end at these text tokens.

    Args:
      trunk: prompts after the layers that all budgets share (`vlm.run_trunk`).
      indices: None for one prompt per row, padded on either side: its last valid
        token.
    """
    if indices is None:
        indices = last_valid(trunk.text.tags)[:, None]
    hidden = trunk.text.hidden.astype(jnp.float32)
    routing = jnp.take_along_axis(hidden, indices[..., None], axis=1)
    pooled = _pooled(trunk.image)[:, None]
    return PolicyFeatures(routing, jnp.broadcast_to(pooled, routing.shape))


def unit_rms(x: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
    """Returns the vectors with a root mean square of 1: a direction, and no size.

    The streams of a pretrained network grow over its depth, some a hundredfold.
    """
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(mean_square + 1e-12)


def _pooled(stream: TokenStream) -> Float[Array, "B D"]:
    """Returns the mean of the valid tokens."""
    valid = stream.tags.valid[..., None]
    total = jnp.sum(jnp.where(valid, stream.hidden.astype(jnp.float32), 0), axis=1)
    return total / jnp.maximum(jnp.sum(valid, axis=1), 1)
