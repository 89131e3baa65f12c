"""A token reducer whose choice depends on the question: it keeps what text looks at."""

import dataclasses

import jax.numpy as jnp

from tests.models.decoder.every_second import EverySecond
from visor_jax.ops.masks import last_valid


@dataclasses.dataclass(frozen=True)
class MostLookedAt(EverySecond):
    """Keeps the half of the image that the last text token looks at most, in order."""

    reads_text: bool = True

    def on_stream(self, layer, text, image, look):
        assert layer == self.stage
        weights = look(last_valid(text.tags)[:, None])[:, 0]
        count = -(-image.length // 2)
        kept = jnp.argsort(-weights, axis=1, stable=True)[:, :count]
        return image.take(jnp.sort(kept, axis=1))
