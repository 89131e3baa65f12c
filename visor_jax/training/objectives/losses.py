"""Losses as (sum, count) pairs: the mean is taken once, over the global batch."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@flax.struct.dataclass
class Summed:
    """A quantity summed over the places where it counts.

    `mean` is global sum / global count, so neither the number of devices nor the
    number of supervised tokens per sample changes what is minimised.
    """

    total: Float[Array, ""]
    count: Float[Array, ""]

    @property
    def mean(self) -> Float[Array, ""]:
        return self.total / jnp.maximum(self.count, 1)


def cross_entropy(
    logits: Float[Array, "B T W"], targets: Int[Array, "B T"], mask: Bool[Array, "B T"]
) -> Summed:
    """Returns the summed cross-entropy (nats) over the masked places."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    picked = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
    return Summed(-jnp.sum(picked * mask), jnp.sum(mask, dtype=jnp.float32))


def accuracy(
    logits: Float[Array, "B T W"], targets: Int[Array, "B T"], mask: Bool[Array, "B T"]
) -> Summed:
    """Returns how many of the masked places have the target as the likeliest token."""
    hits = (jnp.argmax(logits, axis=-1) == targets) & mask
    return Summed(jnp.sum(hits, dtype=jnp.float32), jnp.sum(mask, dtype=jnp.float32))


def reading_loss(
    logits: dict[int, Float[Array, "B V classes"]],
    labels: Int[Array, "B V"],
    layer_is_on: dict[int, Bool[Array, ""]],
) -> Summed:
    """Returns the auxiliary loss: image tokens tell what they show.

    Summed over the reading layers that are switched on; labels of -1 do not count.
    """
    mask, targets = labels >= 0, jnp.maximum(labels, 0)
    total = count = jnp.zeros((), jnp.float32)
    for layer, layer_logits in logits.items():
        part = cross_entropy(layer_logits, targets, mask)
        on = jnp.asarray(layer_is_on[layer], jnp.float32)
        total, count = total + on * part.total, count + on * part.count
    return Summed(total, count)


def distillation(
    logits: Float[Array, "B T W"],
    teacher_logits: Float[Array, "B T W"],
    mask: Bool[Array, "B T"],
) -> Summed:
    """Returns the summed KL(teacher || student) in nats; no gradient to the teacher."""
    teacher = jax.nn.log_softmax(jax.lax.stop_gradient(teacher_logits), axis=-1)
    student = jax.nn.log_softmax(logits, axis=-1)
    divergence = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
    return Summed(jnp.sum(divergence * mask), jnp.sum(mask, dtype=jnp.float32))
