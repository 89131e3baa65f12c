"""Closed formulas for the FLOPs of every part of the network, by named component.

One multiply-add is 2 FLOPs. Matrix products and convolutions are counted, exactly as
the program executes them: attention scores are full rectangles (the causal half is
masked, not skipped) and padding costs what real tokens do. That is the plain form of
attention; at great lengths the program skips blocks of the masked half and pads others
(`visor_jax.ops.attention`), and fills groups of crops
(`visor_jax.models.vision.siglip`). The adapter's depthwise convolution counts as one,
though the program writes it as shifted multiply-adds; its taps over the zero padding
are included. Other elementwise work, softmax, norms and gathers are not counted.

    layer           queries   new keys   keys attended
    text only       T         T          T
    SELF, read      V + T     V + T      V + T          image refined for a later layer
    SELF, unread    T         V + T      V + T          nobody reads the image again
    READ            T         V + T      V + T          the image stays as it is
    SELF, at hand   T         T          V + T          the image's K/V are known
    decode          1         1          context (+ V in READ; in SELF, on or at READ)
    adapter         T         V          V              before a CROSS layer's text only
    adapter at hand T         0          V              the image's K/V are known
    adapter, decode 1         0          V              the image's K/V are in the cache

All functions here are per sample; `visor_jax.flops.account` puts them together.
"""

import dataclasses

from visor_jax.models.config import AdapterConfig, DecoderConfig, VisionConfig

PIXEL_CHANNELS = 3


def matmul(rows: int, inner: int, columns: int) -> int:
    """Returns the FLOPs of (rows, inner) times (inner, columns)."""
    return 2 * rows * inner * columns


def attention_products(queries: int, keys: int, width: int) -> int:
    """Returns the FLOPs of scores and weighted values; width = heads * head_dim."""
    return matmul(queries, width, keys) + matmul(queries, keys, width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerCost:
    """FLOPs of one decoder layer; the adapter's share is 0 but in a CROSS layer."""

    query: int = 0
    key_value: int = 0
    attention: int = 0
    output: int = 0
    mlp: int = 0
    adapter_query: int = 0
    adapter_key_value: int = 0
    adapter_convolution: int = 0
    adapter_attention: int = 0
    adapter_output: int = 0

    @property
    def total(self) -> int:
        return sum(self.components().values())

    def components(self) -> dict[str, int]:
        """Returns {component: FLOPs}, in the order of the fields."""
        # `asdict` copies every number deeply, which takes tens of times as long.
        return dict(vars(self))

    def __add__(self, other: "LayerCost") -> "LayerCost":
        """Returns the cost of doing both, component by component."""
        mine, theirs = self.components(), other.components()
        return LayerCost(**{name: mine[name] + theirs[name] for name in mine})

    def times(self, count: int) -> "LayerCost":
        """Returns the cost of doing this `count` times."""
        return LayerCost(**{k: count * v for k, v in self.components().items()})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerCost:
    """FLOPs of the vision tower, all its blocks together."""

    patch_embedding: int = 0
    projections: int = 0
    attention: int = 0
    mlp: int = 0

    @property
    def total(self) -> int:
        return self.patch_embedding + self.projections + self.attention + self.mlp


def _decoder_layer(
    decoder: DecoderConfig, *, queries: int, new_keys: int, keys: int
) -> LayerCost:
    """Returns one Qwen layer; output and MLP run on the tokens of the queries."""
    d, width = decoder, decoder.heads_width
    return LayerCost(
        query=matmul(queries, d.width, width),
        key_value=2 * matmul(new_keys, d.width, d.num_kv_heads * d.head_dim),
        attention=attention_products(queries, keys, width),
        output=matmul(queries, width, d.width),
        mlp=3 * matmul(queries, d.width, d.mlp_width),
    )


def text_layer(decoder: DecoderConfig, *, text: int) -> LayerCost:
    """Returns a layer on text alone: TEXT, or SELF switched off."""
    return _decoder_layer(decoder, queries=text, new_keys=text, keys=text)


def self_layer(
    decoder: DecoderConfig,
    *,
    text: int,
    image: int,
    image_is_read: bool,
    at_hand: bool = False,
    new_image: int = 0,
) -> LayerCost:
    """Returns a SELF layer that is on.

    `image_is_read`: whether a later layer reads the image. Where none does, the image
    gives keys and values and is not refined any further. at_hand: whether these are
    known, but for those of `new_image` tokens, so that only text goes through the
    layer.
    """
    both = text + image
    if at_hand:
        new = text + new_image
        return _decoder_layer(decoder, queries=text, new_keys=new, keys=both)
    queries = both if image_is_read else text
    return _decoder_layer(decoder, queries=queries, new_keys=both, keys=both)


def cross_adapter(
    decoder: DecoderConfig,
    adapter: AdapterConfig,
    *,
    text: int,
    image: int,
    new_image: int,
) -> LayerCost:
    """Returns the text-to-image adapter alone.

    text, image: tokens that ask and tokens that are looked at. new_image: image tokens
    whose keys and values are computed now (0 if they are cached).
    """
    width = decoder.heads_width
    kv_width = adapter.num_kv_heads * decoder.head_dim
    return LayerCost(
        adapter_query=matmul(text, decoder.width, width),
        adapter_key_value=2 * matmul(new_image, decoder.width, kv_width),
        adapter_convolution=2 * new_image * decoder.width * adapter.conv_kernel,
        adapter_attention=attention_products(text, image, width),
        adapter_output=matmul(text, width, decoder.width),
    )


def cross_layer(
    decoder: DecoderConfig,
    adapter: AdapterConfig,
    *,
    text: int,
    image: int,
    at_hand: bool = False,
    new_image: int = 0,
) -> LayerCost:
    """Returns a CROSS layer: the adapter, then the layer on text alone.

    at_hand: whether the image's keys and values are known, but for those of `new_image`
    tokens.
    """
    new = new_image if at_hand else image
    look = cross_adapter(decoder, adapter, text=text, image=image, new_image=new)
    return look + text_layer(decoder, text=text)


def decode_layer(
    decoder: DecoderConfig, *, context: int, self_image: int = 0
) -> LayerCost:
    """Returns one new token in a layer with cached keys and values.

    context: text keys attended, the new token's own included. self_image: image keys in
    the layer's own cache: V in a READ layer and in a SELF layer that is on or reads,
    else 0.
    """
    keys = context + self_image
    return _decoder_layer(decoder, queries=1, new_keys=1, keys=keys)


def decode_adapter(
    decoder: DecoderConfig, adapter: AdapterConfig, *, image: int
) -> LayerCost:
    """Returns one new token in an adapter whose image keys and values are cached."""
    return cross_adapter(decoder, adapter, text=1, image=image, new_image=0)


def lm_head(decoder: DecoderConfig, *, positions: int) -> int:
    """Returns the FLOPs of the logits at `positions` tokens."""
    return matmul(positions, decoder.width, decoder.vocab_size)


def vision_tower(vision: VisionConfig, *, crops: int) -> TowerCost:
    """Returns the SigLIP tower on `crops` crops; attention is full, within a crop."""
    v, tokens = vision, crops * vision.num_patches
    patch_values = v.patch_size**2 * PIXEL_CHANNELS
    per_block_attention = attention_products(tokens, v.num_patches, v.width)
    return TowerCost(
        patch_embedding=matmul(tokens, patch_values, v.width),
        projections=v.num_layers * 4 * matmul(tokens, v.width, v.width),
        attention=v.num_layers * per_block_attention,
        mlp=v.num_layers * 2 * matmul(tokens, v.width, v.mlp_width),
    )


def projector(
    vision: VisionConfig,
    decoder: DecoderConfig,
    *,
    crops: int,
    convolution: int | None = None,
) -> int:
    """Returns the FLOPs of the projector on every patch of every crop.

    Two layers, and a convolution of so many patches a side, taps beyond the edge
    included.
    """
    tokens, width = crops * vision.num_patches, decoder.width
    inner = vision.width + width
    if convolution is not None:
        inner += convolution**2 * width
    return matmul(tokens, inner, width)
