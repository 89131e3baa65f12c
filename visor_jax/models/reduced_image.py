"""The image tokens that a token reducer leaves of the crops, before the decoder."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from visor_jax.models.decoder.token_reducer import TokenReducer
from visor_jax.models.vision.crop_features import (
    CropFeatures,
    Packing,
    image_digest,
    reads_of,
)
from visor_jax.models.vision.image_tokens import (
    ImageTokens,
    gather_image_tokens,
    kept_tokens,
)
from visor_jax.models.vision.siglip import VisionTower


def reduced_image_tokens(
    tower: VisionTower,
    project: Callable[[Array], Array],
    newline: Float[Array, "D"] | None,
    reducer: TokenReducer,
    length: int,
    pixels: Float[Array, "B C h w 3"],
    index: Int[Array, "B V *corners"],
    weights: Float[Array, "B V *corners"] | None,
    mask: Bool[Array, "B V"] | None,
) -> ImageTokens:
    """Returns the `length` tokens of each row that `reducer.on_crops` lets stay.

    Inside `apply`; the other arguments are those of `VLM.encode_image`.
    """
    reads = reads_of(reducer)
    features, parts = tower.read_samples(pixels, reads)
    if reads.projected:
        features = project(features)
    crops, per_crop = features.shape[1:3]
    packing = Packing.of(index, weights, mask, crops=crops, per_crop=per_crop)
    found = reducer.on_crops(
        CropFeatures(
            features,
            jnp.ones(features.shape[:3], bool),
            packing=packing,
            tower=parts,
            digest=image_digest(pixels) if reads.digest else None,
        )
    )
    patches = found.features if reads.projected else project(found.features)
    if found.merged is not None and weights is not None:
        weights = found.unmixed_weights(index, weights)
    hidden = gather_image_tokens(patches, newline, index, weights)
    return kept_tokens(hidden, found.kept_tokens(), length)
