"""What a token reducer may know of an image before the projector, and what it answers.

The tower hands out what is asked for (`TowerReads`) and computes nothing else. Patches
are (B, C, P), crop by crop and row by row; `Packing` says which of them become tokens.
A grid that the host resizes has tokens that are sums of patches: such a token goes by
its nearest patch alone, so that dropped patches do not smear into their neighbours and
every patch makes one token or none:

    weights  [0.1 0.6 0.1 0.2] of the patches [4 5 9 10]: the token of patch 5
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from visor_jax.models.config import VisionConfig


@dataclasses.dataclass(frozen=True)
class TowerReads:
    """What a method reads besides the tower's last features; by default nothing.

    Layers count from 0; negative ones from the end (-1 made the features).

    attention: layers whose queries and keys it reads. features: layers whose output.
    projected: whether `CropFeatures.features` are to be projected ones. digest: whether
    it needs a number that is the image's own. side: patches per side to which crops are
    shrunk before the tower, None for their own; a patch then has the features of the
    larger one that it lies in.
    """

    attention: tuple[int, ...] = ()
    features: tuple[int, ...] = ()
    projected: bool = False
    digest: bool = False
    side: int | None = None

    def of_layer(self, names: tuple[int, ...], layer: int, count: int) -> list[int]:
        """Returns those of `names` that mean this layer of `count`.

        Raises:
          ValueError: for a name that means no layer.
        """
        wrong = [name for name in names if not -count <= name < count]
        if wrong:
            raise ValueError(
                f"The vision tower has no layers {wrong}: it has {count}, from 0 or "
                f"-{count} on. Set the token reducer's layers to some of them."
            )
        return [name for name in names if name % count == layer]


NOTHING = TowerReads()


@runtime_checkable
class ReadsTower(Protocol):
    """A token reducer that reads more than features says so here."""

    tower_reads: TowerReads


def reads_of(reducer: object) -> TowerReads:
    """Returns what a token reducer reads of the tower."""
    return reducer.tower_reads if isinstance(reducer, ReadsTower) else NOTHING


@flax.struct.dataclass
class QueryKey:
    """Queries and keys of one attention layer, unscaled: (B, C, P, N, H)."""

    query: Float[Array, "*crops P N H"]
    key: Float[Array, "*crops P N H"]


@flax.struct.dataclass
class TowerParts:
    """What `TowerReads` asked for, by the layers' names in it."""

    attention: dict[int, QueryKey] = flax.struct.field(default_factory=dict)
    features: dict[int, Array] = flax.struct.field(default_factory=dict)


@runtime_checkable
class Tower(Protocol):
    """What sees crops: the tower, or what has seen them before."""

    config: VisionConfig

    def read_samples(
        self, pixels: Float[Array, "B C h w 3"], reads: TowerReads
    ) -> tuple[Float[Array, "B C P E"], TowerParts]:
        """Returns the patch features of each sample's crops, and what else is read."""
        ...


@flax.struct.dataclass
class Packing:
    """How patches become image tokens.

    patch: (B, V) the patch of each token (of several the nearest), C * P for a newline;
    of no meaning where there is no token. valid: (B, V) where there is one.
    """

    patch: Int[Array, "B V"]
    valid: Bool[Array, "B V"]
    crops: int = flax.struct.field(pytree_node=False)
    per_crop: int = flax.struct.field(pytree_node=False)

    @classmethod
    def of(
        cls,
        index: Int[Array, "B V *corners"],
        weights: Float[Array, "B V *corners"] | None,
        mask: Bool[Array, "B V"] | None,
        *,
        crops: int,
        per_crop: int,
    ) -> "Packing":
        """Returns the packing of a batch's `image_token_index` and weights."""
        if weights is not None:
            nearest = jnp.argmax(weights, axis=-1)[..., None]
            index = jnp.take_along_axis(index, nearest, axis=-1)[..., 0]
        valid = jnp.ones(index.shape, bool) if mask is None else mask
        return cls(index, valid, crops=crops, per_crop=per_crop)

    @property
    def is_newline(self) -> Bool[Array, "B V"]:
        return self.valid & (self.patch == self.crops * self.per_crop)

    @property
    def there(self) -> Bool[Array, "B C P"]:
        """Which patches make a token: not those of padding, in crops or between."""
        size, patches = len(self.patch), self.crops * self.per_crop
        found = jnp.zeros((size, patches + 1), bool)
        found = found.at[jnp.arange(size)[:, None], self.patch].max(self.valid)
        return found[:, :patches].reshape(size, self.crops, self.per_crop)

    @property
    def row(self) -> Int[Array, "B V"]:
        """The newlines before each token: of a grid of tiles, the row it is in."""
        ends = self.is_newline.astype(jnp.int32)
        return jnp.cumsum(ends, axis=1) - ends

    @property
    def has_base(self) -> Bool[Array, "B"]:
        """Whether crop 0 shows the whole of what the other crops show parts of.

        So it is if all of its patches are tokens and a tile follows. Crops of one image
        each end with a newline; frames of a video have fewer tokens than patches. A
        network without newlines cannot tell several images from a base and its tiles:
        then what comes first is the base.
        """
        first = self.valid & (self.patch < self.per_crop)
        after = jnp.roll(first, 1, axis=1).at[:, 0].set(False) & ~first & self.valid
        tile = (after & ~self.is_newline).any(axis=1)
        return tile & (first.sum(axis=1) == self.per_crop)

    @property
    def tile_grid(self) -> Int[Array, "B 2"]:
        """Rows and columns of the tiles behind a base; one row if there is no newline.

        Means nothing where there is no base.
        """
        tiles = self.there.any(axis=2)[:, 1:].sum(axis=1)
        crop = jnp.where(self.valid & ~self.is_newline, self.patch // self.per_crop, 0)
        columns = jnp.where(self.row == 0, crop, 0).max(axis=1)
        rows = jnp.maximum(tiles // jnp.maximum(columns, 1), 1)
        return jnp.stack([rows, columns], axis=1).astype(jnp.int32)

    def of_tokens(self, keep: Bool[Array, "B C P"]) -> Bool[Array, "B V"]:
        """Returns which tokens' patches are among these; no newline's is."""
        flat = keep.reshape(len(keep), -1)
        flat = jnp.pad(flat, ((0, 0), (0, 1)))
        return jnp.take_along_axis(flat, self.patch, axis=1) & self.valid


@flax.struct.dataclass
class CropFeatures:
    """What the tower made of the crops, and which patches are to stay.

    features: (B, C, P, E), or projected ones if those were asked for. keep: (B, C, P).
    keep_newlines: (B, V) which newlines stay; None for all. merged: (B, C, P) patches
    whose features are now more than their own; None for none. Then packing, parts and
    digest: what a method may read.
    """

    features: Float[Array, "B C P E"]
    keep: Bool[Array, "B C P"]
    keep_newlines: Bool[Array, "B V"] | None = None
    merged: Bool[Array, "B C P"] | None = None
    packing: Packing | None = None
    tower: TowerParts | None = None
    digest: UInt32[Array, "B"] | None = None

    def kept_tokens(self) -> Bool[Array, "B V"]:
        """Returns which image tokens stay."""
        newlines = self.packing.is_newline
        if self.keep_newlines is not None:
            newlines &= self.keep_newlines
        return self.packing.of_tokens(self.keep) | newlines

    def unmixed_weights(
        self, index: Int[Array, "B V *corners"], weights: Float[Array, "B V *corners"]
    ) -> Float[Array, "B V *corners"]:
        """Returns the weights of a resized grid in which merged patches stand alone.

        The token of a merged patch is that patch; no other token has a share of it.
        """
        flat = jnp.pad(self.merged.reshape(len(self.merged), -1), ((0, 0), (0, 1)))
        corners = jnp.take_along_axis(flat[..., None], index, axis=1)
        own = index == self.packing.patch[..., None]
        # A patch at the edge stands at several corners.
        mine = self.packing.of_tokens(self.merged)[..., None]
        weights = jnp.where(jnp.where(mine, own, ~corners), weights, 0)
        return weights / jnp.maximum(weights.sum(axis=-1, keepdims=True), 1e-6)


@flax.struct.dataclass
class PackedTokens:
    """The image tokens as the packing makes them of projected patches and newlines.

    hidden: (B, V, D). keep: (B, V) which of them are to stay.
    """

    hidden: Float[Array, "B V D"]
    keep: Bool[Array, "B V"]
    packing: Packing


@runtime_checkable
class ReducesTokens(Protocol):
    """A token reducer that works behind the packing, besides `on_crops`."""

    def on_tokens(
        self, tokens: PackedTokens, compress: Callable[[Array], Array] | None
    ) -> PackedTokens:
        """Returns the tokens with `keep` False where they go, or other `hidden`.

        compress: the module of `VLMConfig.compressor`, from (B, W, size, D) to
        (B, W, D); None if the network has none.
        """
        ...


def image_digest(pixels: Float[Array, "B C h w 3"]) -> UInt32[Array, "B"]:
    """Returns a number of each image that no other row and no padding changes."""
    bits = jax.lax.bitcast_convert_type(pixels.astype(jnp.float32), jnp.uint32)
    return bits.reshape(len(bits), -1).sum(axis=1, dtype=jnp.uint32)
