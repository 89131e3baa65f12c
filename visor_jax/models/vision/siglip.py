"""SigLIP vision tower: crops in, one feature per patch out.

No class token; the features are the last block's output without the final norm, which
is what LLaVA-OneVision reads. Parameter names follow the published checkpoints.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.models.config import VisionConfig
from visor_jax.models.stacked_layers import is_scanned, stacked
from visor_jax.models.vision.crop_features import (
    NOTHING,
    QueryKey,
    TowerParts,
    TowerReads,
)
from visor_jax.ops.attention import AUTO, attend
from visor_jax.ops.kernels.kernel import KeyPart
from visor_jax.ops.linear import Dense

# Patches that go through the tower together, at most. Larger groups only take more
# memory: on a CPU 4 crops of 729 are no slower, crop for crop, than 8.
PATCHES_AT_ONCE = 3072


def _norm(config: VisionConfig, dtype: jnp.dtype) -> nn.LayerNorm:
    # The fast variance loses three digits on features with a large mean.
    return nn.LayerNorm(epsilon=config.norm_eps, use_fast_variance=False, dtype=dtype)


class VisionAttention(nn.Module):
    """Bidirectional self-attention over the patches of a crop."""

    config: VisionConfig
    dtype: jnp.dtype
    attention: str

    def setup(self) -> None:
        width, std = self.config.width, self.config.init_std
        self.q_proj = Dense(width, std, dtype=self.dtype)
        self.k_proj = Dense(width, std, dtype=self.dtype)
        self.v_proj = Dense(width, std, dtype=self.dtype)
        self.out_proj = Dense(width, std, dtype=self.dtype)

    def __call__(self, x: Float[Array, "B P E"]) -> Float[Array, "B P E"]:
        heads = (*x.shape[:2], self.config.num_heads, self.config.head_dim)
        query, key, value = (
            projection(x).reshape(heads)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        part = KeyPart(key, value, None)
        mixed = attend(query, [part], kernel=self.attention)
        return self.out_proj(mixed.reshape(x.shape))

    def query_key(
        self, x: Float[Array, "B P E"]
    ) -> tuple[Float[Array, "B P N H"], Float[Array, "B P N H"]]:
        """Returns the queries and keys alone."""
        heads = (*x.shape[:2], self.config.num_heads, self.config.head_dim)
        return self.q_proj(x).reshape(heads), self.k_proj(x).reshape(heads)


class VisionMLP(nn.Module):
    """fc2(gelu_tanh(fc1(x)))."""

    config: VisionConfig
    dtype: jnp.dtype

    def setup(self) -> None:
        c = self.config
        self.fc1 = Dense(c.mlp_width, c.init_std, dtype=self.dtype)
        self.fc2 = Dense(c.width, c.init_std, dtype=self.dtype)

    def __call__(self, x: Float[Array, "B P E"]) -> Float[Array, "B P E"]:
        return self.fc2(nn.gelu(self.fc1(x), approximate=True))


class VisionBlock(nn.Module):
    """Pre-norm transformer block."""

    config: VisionConfig
    dtype: jnp.dtype
    attention: str

    def setup(self) -> None:
        self.layer_norm1 = _norm(self.config, self.dtype)
        self.self_attn = VisionAttention(self.config, self.dtype, self.attention)
        self.layer_norm2 = _norm(self.config, self.dtype)
        self.mlp = VisionMLP(self.config, self.dtype)

    def __call__(self, x: Float[Array, "B P E"]) -> Float[Array, "B P E"]:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))

    def query_key(
        self, x: Float[Array, "B P E"]
    ) -> tuple[Float[Array, "B P N H"], Float[Array, "B P N H"]]:
        """Returns the queries and keys that the block makes of its input."""
        return self.self_attn.query_key(self.layer_norm1(x))


class PatchEmbeddings(nn.Module):
    """Patches to vectors, plus a learned vector per place, row by row."""

    config: VisionConfig
    dtype: jnp.dtype

    def setup(self) -> None:
        c = self.config
        self.patch_embedding = nn.Conv(
            c.width,
            kernel_size=(c.patch_size, c.patch_size),
            strides=(c.patch_size, c.patch_size),
            padding="VALID",
            dtype=self.dtype,
        )
        self.position_embedding = nn.Embed(c.num_patches, c.width, dtype=self.dtype)

    def __call__(self, crops: Float[Array, "B h w 3"]) -> Float[Array, "B P E"]:
        patches = self.patch_embedding(crops.astype(self.dtype))
        patches = patches.reshape(crops.shape[0], -1, self.config.width)
        places = self.position_embedding(jnp.arange(self.config.num_patches))
        return patches + places_of(places, patches.shape[1])


def places_of(places: Float[Array, "P D"], count: int) -> Float[Array, "Q D"]:
    """Returns a vector for each place of a square of `count`, resized linearly."""
    if count == len(places):
        return places
    side, new = math.isqrt(len(places)), math.isqrt(count)
    square = places.reshape(side, side, -1).astype(jnp.float32)
    resized = jax.image.resize(square, (new, new, square.shape[2]), "linear")
    return resized.reshape(count, -1).astype(places.dtype)


class Encoder(nn.Module):
    """The stack of blocks."""

    config: VisionConfig
    dtype: jnp.dtype
    remat: bool
    attention: str
    scan_layers: str

    def setup(self) -> None:
        block = nn.remat(VisionBlock) if self.remat else VisionBlock
        count = self.config.num_layers
        self.layers = [
            block(self.config, self.dtype, self.attention) for _ in range(count)
        ]

    def __call__(
        self, groups: Float[Array, "groups B P E"], reads: TowerReads = NOTHING
    ) -> tuple[Float[Array, "groups B P E"], TowerParts]:
        """Returns the features of groups of crops, one group at a time in each block.

        And what else is to be read. A block takes all groups before the next block
        begins: where parameters are split over devices, those of one block are
        gathered, once, and no others.
        """
        scanned = is_scanned(self.scan_layers) and not self.is_initializing()
        if scanned and reads == NOTHING and len(self.layers) > 1:
            return self._scanned(groups), TowerParts()
        count, parts = len(self.layers), TowerParts()
        # Before any block is run: a layer that is not there is said at once.
        asked = [
            (
                reads.of_layer(reads.attention, layer, count),
                reads.of_layer(reads.features, layer, count),
            )
            for layer in range(count)
        ]
        for layer, (attention, features) in zip(self.layers, asked, strict=True):
            if attention:
                pair = QueryKey(*_over_groups(_query_key, layer, groups))
                parts.attention.update(dict.fromkeys(attention, pair))
            groups = _over_groups(_features, layer, groups)
            parts.features.update(dict.fromkeys(features, groups))
        return groups, parts

    def _scanned(self, groups: Float[Array, "groups B P E"]) -> Array:
        """Returns the features; one body for all blocks, see `stacked_layers`."""
        module, variables = stacked(self.layers, self.dtype)

        def block(groups: Array, variables: Any) -> tuple[Array, None]:
            return jax.lax.map(lambda x: module.apply(variables, x), groups), None

        return jax.lax.scan(block, groups, variables)[0]


def _features(layer: VisionBlock, group: Array) -> Array:
    return layer(group)


def _query_key(layer: VisionBlock, group: Array) -> tuple[Array, Array]:
    return layer.query_key(group)


def _over_groups(
    way: Callable[[VisionBlock, Array], Any], layer: VisionBlock, groups: Array
) -> Any:
    """Returns what a block makes of every group, one after the other."""
    if len(groups) == 1:
        return jax.tree.map(lambda x: x[None], way(layer, groups[0]))
    over_groups = nn.scan(
        lambda layer, _, group: ((), way(layer, group)),
        variable_broadcast="params",
        split_rngs={"params": False},
    )
    return over_groups(layer, (), groups)[1]


class VisionTower(nn.Module):
    """SigLIP without its pooling head.

    remat: of every block. attention: the kernel's name. scan_layers: see `VLMConfig`.
    """

    config: VisionConfig
    dtype: jnp.dtype
    remat: bool = False
    attention: str = AUTO
    scan_layers: str = "off"

    def setup(self) -> None:
        self.embeddings = PatchEmbeddings(self.config, self.dtype)
        self.encoder = Encoder(
            *(self.config, self.dtype, self.remat, self.attention, self.scan_layers)
        )
        self.post_layernorm = _norm(self.config, self.dtype)

    def __call__(self, crops: Float[Array, "B h w 3"]) -> Float[Array, "B P E"]:
        """Returns the patch features of each crop."""
        return self._read(crops, NOTHING)[0]

    def _read(
        self, crops: Float[Array, "B h w 3"], reads: TowerReads
    ) -> tuple[Float[Array, "B P E"], TowerParts]:
        features, parts = self.encoder(self.embeddings(crops)[None], reads)
        features, parts = features[0], jax.tree.map(lambda x: x[0], parts)
        if self.is_initializing():
            # Published checkpoints carry this norm; it is kept so that they survive a
            # round trip, and not used.
            self.post_layernorm(features)
        return features, parts

    def of_samples(self, pixels: Float[Array, "B C h w 3"]) -> Float[Array, "B C P E"]:
        """Returns the patch features of each sample's crops. See `read_samples`."""
        return self.read_samples(pixels, NOTHING)[0]

    def read_samples(
        self, pixels: Float[Array, "B C h w 3"], reads: TowerReads
    ) -> tuple[Float[Array, "B C P E"], TowerParts]:
        """Returns the patch features of each sample's crops, and what else is read.

        Many crops go through a block in groups, so that its memory does not grow with
        their number; zeros fill up the last group. A group holds crops of every sample:
        samples may lie on different devices.

        Raises:
          ValueError: if a layer is to be read that the tower does not have.
        """
        samples, crops = pixels.shape[:2]
        size = crops_at_once(self.config, samples=samples, crops=crops)
        if size >= crops or self.is_initializing():
            found = self._read(pixels.reshape(-1, *pixels.shape[2:]), reads)
            return jax.tree.map(
                lambda x: x.reshape(samples, crops, *x.shape[1:]), found
            )
        patches = self.embeddings(pixels.reshape(-1, *pixels.shape[2:]))
        patches = patches.reshape(samples, crops, *patches.shape[1:])
        patches = jnp.pad(patches, ((0, 0), (0, -crops % size), (0, 0), (0, 0)))
        groups = patches.reshape(samples, -1, size, *patches.shape[2:]).swapaxes(0, 1)
        groups = groups.reshape(-1, samples * size, *patches.shape[2:])

        def ungrouped(x: Array) -> Array:
            x = x.reshape(-1, samples, size, *x.shape[2:]).swapaxes(0, 1)
            return x.reshape(samples, -1, *x.shape[3:])[:, :crops]

        return jax.tree.map(ungrouped, self.encoder(groups, reads))


def crops_at_once(config: VisionConfig, *, samples: int, crops: int) -> int:
    """Returns how many crops of each sample go through a block together."""
    return group_size(crops, PATCHES_AT_ONCE // (samples * config.num_patches))


def group_size(crops: int, most: int) -> int:
    """Returns how many crops form a group: at most `most`, with the least filling."""
    most = max(1, min(most, crops))
    return min(range(most, most // 2, -1), key=lambda size: -crops % size)
