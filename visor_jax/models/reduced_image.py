"""The image tokens that a token reducer leaves of the crops, before the decoder."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from visor_jax.models.decoder.token_reducer import TokenReducer
from visor_jax.models.vision.crop_features import (
    CropFeatures,
    PackedTokens,
    Packing,
    ReducesTokens,
    Tower,
    TowerParts,
    TowerReads,
    image_digest,
    reads_of,
)
from visor_jax.models.vision.image_tokens import (
    ImageTokens,
    gather_image_tokens,
    kept_tokens,
)


def reduced_image_tokens(
    tower: Tower,
    project: Callable[..., Array],
    newline: Float[Array, "D"] | None,
    reducer: TokenReducer,
    length: int,
    pixels: Float[Array, "B C h w 3"],
    index: Int[Array, "B V *corners"],
    weights: Float[Array, "B V *corners"] | None,
    mask: Bool[Array, "B V"] | None,
    compress: Callable[[Array], Array] | None = None,
) -> ImageTokens:
    """Returns the `length` tokens of each row that the reducer lets stay.

    Inside `apply`. project: `Projector.__call__`. compress: see `ReducesTokens`; the
    other arguments are those of `VLM.encode_image`.
    """
    reads = reads_of(reducer)
    features, parts = _seen(tower, project, reads, pixels)
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
    is_projected = reads.projected or reads.side is not None
    unmerged = features if found.merged is not None else None
    patches = found.features if is_projected else project(found.features, unmerged)
    if found.merged is not None and weights is not None:
        weights = found.unmixed_weights(index, weights)
    hidden = gather_image_tokens(patches, newline, index, weights)
    keep = found.kept_tokens()
    if isinstance(reducer, ReducesTokens):
        tokens = reducer.on_tokens(PackedTokens(hidden, keep, packing), compress)
        hidden, keep = tokens.hidden, tokens.keep
    return kept_tokens(hidden, keep, length)


def _seen(
    tower: Tower,
    project: Callable[..., Array],
    reads: TowerReads,
    pixels: Float[Array, "B C h w 3"],
) -> tuple[Float[Array, "B C P E"], TowerParts]:
    """Returns the features of all patches, projected if they are to be, and parts."""
    if reads.side is None:
        features, parts = tower.read_samples(pixels, reads)
        return project(features) if reads.projected else features, parts
    side, size = tower.config.patches_per_side, reads.side * tower.config.patch_size
    shape = (*pixels.shape[:2], size, size, 3)
    shrunk = jax.image.resize(pixels.astype(jnp.float32), shape, "linear")
    features, parts = tower.read_samples(shrunk, reads)
    features = project(features)
    nearest = jnp.arange(side) * reads.side // side
    patch = nearest[:, None] * reads.side + nearest
    return features[:, :, patch.reshape(-1)], parts
