"""A token reducer to test the seams with: it keeps every second image token."""

import dataclasses

import jax.numpy as jnp

from visor_jax.models.decoder.token_reducer import PositionRule


@dataclasses.dataclass(frozen=True)
class EverySecond:
    """Keeps the image tokens 0, 2, 4, ... before one layer."""

    position_rule: PositionRule
    stage: int
    reads_text: bool = False
    reads_crops: bool = False

    @property
    def stages(self):
        return (self.stage,)

    def image_lengths(self, image_tokens, num_layers):
        left = -(-image_tokens // 2)
        return (image_tokens,) * self.stage + (left,) * (num_layers - self.stage)

    def on_crops(self, crops):
        return crops

    def on_stream(self, layer, text, image, look):
        assert layer == self.stage
        kept = jnp.arange(0, image.length, 2)
        return image.take(jnp.broadcast_to(kept, (image.hidden.shape[0], len(kept))))


# KEEP and RENUMBER in the middle, where layers before hold the whole image.
def reducers(stage):
    return [
        EverySecond(PositionRule.KEEP, stage),
        EverySecond(PositionRule.RENUMBER, stage),
        EverySecond(PositionRule.FRESH, 0),
    ]
