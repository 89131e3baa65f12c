"""Where the CROSS layers of a network look while it chooses an answer's first token.

An adapter attends from text to image alone, so that its weights are a map over the
image: how much each image token was looked at by the last token of the question. They
are computed beside the network's own attention, for that one token, and add up to 1.
"""

import numpy as np
from jaxtyping import Float

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.inference.generation.cross_looks import cross_looks
from visor_jax.inference.loading.network import Network
from visor_jax.models.decoder.token_reducer import KEEP_ALL
from visor_jax.models.vlm import text_tags
from visor_jax.ops.masks import last_valid


def cross_attention_maps(
    network: Network, batch: Batch, budget: Budget
) -> dict[int, Float[np.ndarray, "B V"]]:
    """Returns {CROSS layer: attention of each prompt's last token to image tokens}.

    float32, averaged over heads; padding has 0.

    Args:
      batch: one prompt per row.
      budget: which SELF layers refine the image on its way.

    Raises:
      ValueError: for a budget of another plan, or a network that drops image tokens.
    """
    check_keeps_all(network)
    gates = budget.gates(network.config.plan)
    last = last_valid(text_tags(batch))[:, None]
    found = cross_looks(network.params, batch, last, model=network.vlm, gates=gates)
    return {layer: np.asarray(weights[:, 0]) for layer, weights in found.items()}


def check_keeps_all(network: Network) -> None:
    """Raises ValueError for a network that drops image tokens: it has no such maps."""
    if network.reducer != KEEP_ALL:
        raise ValueError(
            f"{network.reducer} drops image tokens, so that layers have maps of "
            "different tokens: load the network without it."
        )


def first_crop_map(
    weights: Float[np.ndarray, "V"], batch: Batch, row: int, *, patches_per_side: int
) -> Float[np.ndarray, "side side"]:
    """Returns a prompt's map over the patches of its first crop, the whole picture.

    Image tokens of other crops are left out, and learned newlines, which show nothing.
    A token that is a weighted sum of patches counts for each of them by its weight.

    Args:
      row: of the batch.
    """
    index = np.asarray(batch.image_token_index)[row]
    parts = np.asarray(weights)
    if index.ndim == 2:
        parts = parts[:, None] * np.asarray(batch.image_token_weights)[row]
    valid = np.asarray(batch.image_mask)[row].reshape(-1, *[1] * (index.ndim - 1))
    shown = valid & (index < patches_per_side**2)
    flat = np.zeros(patches_per_side**2, np.float32)
    np.add.at(flat, index[shown], parts[shown])
    return flat.reshape(patches_per_side, patches_per_side)
