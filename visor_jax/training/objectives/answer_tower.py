"""What the tower of pictures with questions is asked: which words their answers have.

One vector of a picture (the mean of its patches) tells the tokens of all that is
answered about it, each by how rare it is: "triangle" counts, and "yes" does not.

    idf    = max(0, log(pictures / (1 + pictures that have the token)))
    target = idf * occurs / sum(idf * occurs)
    loss   = - sum(target * log softmax(logits))

After SuperClass (Huang et al. 2024, "Classification Done Right for Vision-Language
Pre-Training"), which takes the tokens of captions for labels; how often each occurs is
counted as it goes on, as there.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from visor_jax.batch import Batch
from visor_jax.models.config import VisionConfig
from visor_jax.models.vision.siglip import VisionTower

# The collection of what is counted.
COUNTS = "counts"


class AnswerTower(nn.Module):
    """The tower with a linear head for the tokens of answers.

    vocabulary: how many tokens there are.
    """

    config: VisionConfig
    vocabulary: int

    def setup(self) -> None:
        self.vision_tower = VisionTower(self.config, jnp.dtype("float32"))
        self.norm = nn.LayerNorm()
        self.head = nn.Dense(self.vocabulary)
        self.pictures = self.variable(COUNTS, "pictures", jnp.zeros, ())
        self.with_token = self.variable(
            COUNTS, "with_token", jnp.zeros, (self.vocabulary,)
        )

    def __call__(self, batch: Batch) -> Float[Array, ""]:
        """Returns the mean loss of the rows that have a picture, and counts them.

        The first crop is looked at, which shows all of it.
        """
        occurs = answered_tokens(batch, self.vocabulary)
        if not self.is_initializing():
            self.pictures.value += batch.image_mask.any(axis=-1).sum()
            self.with_token.value += occurs.sum(axis=0)
        seen = jnp.maximum(self.pictures.value, 1)
        rarity = jnp.maximum(jnp.log(seen / (1 + self.with_token.value)), 0)
        features = self.vision_tower(batch.pixels[:, 0]).mean(axis=1)
        log_probs = jax.nn.log_softmax(self.head(self.norm(features)))
        weights = occurs * rarity
        total = weights.sum(axis=-1)
        losses = -(weights * log_probs).sum(axis=-1) / jnp.where(total > 0, total, 1)
        # Rows whose answers have no rare token ask nothing.
        return losses.sum() / jnp.maximum((total > 0).sum(), 1)


def answered_tokens(batch: Batch, vocabulary: int) -> Float[Array, "B tokens"]:
    """Returns 1 for the tokens that the answers about a row's picture have, else 0."""
    answers: Bool[Array, "B T"] = batch.loss_mask & batch.image_mask.any(-1)[:, None]
    rows = jnp.arange(batch.size)[:, None]
    occurs = jnp.zeros((batch.size, vocabulary))
    return occurs.at[rows, batch.targets].max(answers.astype(jnp.float32))
