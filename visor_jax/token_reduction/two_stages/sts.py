"""STS-like: repulsion before the decoder, the question's choice inside it.

The idea is that of Wang, Zhang, Han and Zhang, "When Attention Collapses: Stage-Aware
Visual Token Pruning from Structure to Semantics", arXiv 2606.03569v1: what covers the
picture first, what the question asks for later. Its formulas were not at hand: energy,
layer and shares below are this project's own, so numbers are not to be compared with
that paper's.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.decoder.token_reducer import TextLook
from visor_jax.token_reduction.crops.repulsion import Repulsion
from visor_jax.token_reduction.two_stages.later_stage import LaterStage, behind_image

ASKING = ("instruction", "last")


@dataclasses.dataclass(frozen=True)
class STS(LaterStage, Repulsion):
    """Repulsion sampling (`repulsion`), then the tokens that the question looks at.

    asking: "instruction", the mean over all words behind the image; "last", the last of
    them alone. decoder_layer: None for half of the depth. remaining: share of the first
    stage's tokens that stays behind it.

    Source: an idea of arXiv 2606.03569v1, with formulas of our own.
    """

    asking: str = "instruction"

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        super().__post_init__()
        self.check_choice("asking", ASKING)

    def scores(
        self, text: TokenStream, image: TokenStream, look: TextLook
    ) -> Float[Array, "B V"]:
        """Returns how much those who ask look at each token."""
        if self.asking == "last":
            return super().scores(text, image, look)
        words = behind_image(text, image)
        every = jnp.arange(text.length, dtype=jnp.int32)
        weights = look(jnp.broadcast_to(every, words.shape))
        total = jnp.where(words[..., None], weights, 0).sum(axis=1)
        return total / words.sum(axis=1)[:, None]

    def rows_looked(self, text_tokens: int) -> int:
        """Returns how many text tokens look, of a prompt with so many."""
        return 1 if self.asking == "last" else text_tokens
