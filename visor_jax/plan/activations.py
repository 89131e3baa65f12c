"""Closed formulas for what a training step holds beside its state, on one device.

Two kinds of memory, in numbers of the compute dtype unless said otherwise:

    kept      from the forward to the backward pass, for every layer at once
    worked    while one layer (or the logits) is computed again and differentiated

What is kept, for each policy of `VLMConfig.remat`:

    policy   text token in a layer   image token, SELF layer on   tower block
    layer    D, its input            D                            E, its input
    gated    all of a layer          D                            all of it
    none     all of a layer          all of a layer               all of it

A SELF layer behind a traced gate keeps both of its branches, whatever is drawn: one
program serves every budget, and its memory is that of them all. A conditional also
hands on copies: of its inputs, once for each branch, and of its layer's parameters.

"All of a layer" counts what the products of a layer read: norms, queries, keys and
values, mixed values, the MLP's four arrays. Attention in blocks keeps no scores
(`visor_jax.ops.attention` chooses), the plain form keeps them in float32.
"""

import dataclasses

from visor_jax.budget import Budget
from visor_jax.layer_plan import LayerKind
from visor_jax.models.config import DecoderConfig, VLMConfig
from visor_jax.ops.attention import writes_scores

BYTES = {"float32": 4, "bfloat16": 2}
# Logits, logarithms of probabilities, and the gradient.
LOGITS_COPIES = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceBatch:
    """What one device holds of a batch: rows, and the lengths of a row.

    crops_at_once: crops of a row that go through a tower block together.
    """

    rows: int
    crops: int
    image_tokens: int
    text_tokens: int
    crops_at_once: int


def decoder_layer_numbers(
    config: VLMConfig, *, queries: int, keys: int
) -> tuple[int, int]:
    """Returns (numbers of the compute dtype, float32 scores) that a whole layer keeps.

    Args:
      queries: tokens whose hidden states it makes.
      keys: tokens whose keys and values it makes and attends to.
    """
    decoder = config.decoder
    d, kv = decoder.width, decoder.num_kv_heads * decoder.head_dim
    # Input, norm, after attention, norm; queries, mixed; gate, up, silu, product.
    numbers = queries * (4 * d + 2 * decoder.heads_width + 4 * decoder.mlp_width)
    numbers += keys * 2 * kv
    if decoder.qk_norm:
        # Queries and keys as they come from their projections.
        numbers += queries * decoder.heads_width + keys * kv
    return numbers, _scores(config, decoder.num_heads, queries, keys)


def tower_block_numbers(config: VLMConfig, *, crops: int) -> tuple[int, int]:
    """Returns (numbers of the compute dtype, float32 scores) that a whole block keeps.

    Args:
      crops: of all rows together.
    """
    vision, patches = config.vision, config.vision.num_patches
    # Input, norm, q, k, v, mixed values, after attention, norm; before and after gelu.
    numbers = crops * patches * (8 * vision.width + 2 * vision.mlp_width)
    return numbers, crops * _scores(config, vision.num_heads, patches, patches)


def _scores(config: VLMConfig, heads: int, queries: int, keys: int) -> int:
    kept = writes_scores(queries, keys, kernel=config.attention)
    return heads * queries * keys if kept else 0


def kept_by_block(config: VLMConfig, batch: DeviceBatch) -> int:
    """Returns the bytes that one block of the tower keeps."""
    size, crops = BYTES[config.compute_dtype], batch.rows * batch.crops
    if config.remat == "layer":
        return size * crops * config.vision.num_patches * config.vision.width
    numbers, scores = tower_block_numbers(config, crops=crops)
    return size * numbers + 4 * scores


def kept_by_image_path(config: VLMConfig, batch: DeviceBatch) -> int:
    """Returns the bytes kept between the tower and the decoder.

    The tower's features, both sides of the projector's gelu, what its convolution
    reads, and the image tokens.
    """
    patches = batch.rows * batch.crops * config.vision.num_patches
    streams = 2 if config.projector_convolution is None else 3
    numbers = patches * (config.vision.width + streams * config.decoder.width)
    numbers += batch.rows * batch.image_tokens * config.decoder.width
    return BYTES[config.compute_dtype] * numbers


def kept_by_layer(
    config: VLMConfig, batch: DeviceBatch, layer: int, budget: Budget | None
) -> int:
    """Returns the bytes that one decoder layer keeps, its parameters' copies apart.

    Args:
      budget: of a program made for it alone; None for traced gates.
    """
    size, kind = BYTES[config.compute_dtype], config.plan.kinds[layer]
    text, image = batch.text_tokens, batch.image_tokens
    traced = budget is None and kind.is_gated
    is_on = not kind.is_gated or traced or layer in budget.self_layers
    reads = is_on or layer in budget.read_layers
    refined = image if kind.refines_image and is_on else 0
    seen = image if _sees_in_itself(kind) and reads else 0
    whole = config.remat == "none" or (config.remat == "gated" and not kind.is_gated)
    if not whole:
        inputs = text + refined
        # One set for each branch.
        inputs += text + image if traced else 0
        return size * batch.rows * inputs * config.decoder.width
    kept = _bytes_of_layer(config, batch, queries=text + refined, keys=text + seen)
    if traced:
        kept += _bytes_of_layer(config, batch, queries=text, keys=text)
    if kind.has_adapter:
        kept += _adapter_bytes(config, batch)
    return kept


def worked_on_layer(config: VLMConfig, batch: DeviceBatch, layer: int) -> int:
    """Returns the bytes of a layer computed again, with its widest gradients.

    A SELF layer's gate is on.
    """
    kind, text = config.plan.kinds[layer], batch.text_tokens
    tokens = text + (batch.image_tokens if kind.refines_image else 0)
    keys = text + (batch.image_tokens if _sees_in_itself(kind) else 0)
    worked = _bytes_of_layer(config, batch, queries=tokens, keys=keys)
    if kind.has_adapter:
        worked += _adapter_bytes(config, batch)
    # The gradients of gate, up and product, and of a few streams.
    gradients = 3 * config.decoder.mlp_width + 3 * config.decoder.width
    size = BYTES[config.compute_dtype]
    return worked + size * batch.rows * tokens * gradients


def worked_on_block(config: VLMConfig, batch: DeviceBatch) -> int:
    """Returns the bytes of a tower block computed again for one group of crops."""
    size, crops = BYTES[config.compute_dtype], batch.rows * batch.crops_at_once
    numbers, scores = tower_block_numbers(config, crops=crops)
    gradients = 2 * config.vision.mlp_width + 2 * config.vision.width
    numbers += crops * config.vision.num_patches * gradients
    return size * numbers + 2 * 4 * scores


def logits_bytes(decoder: DecoderConfig, batch: DeviceBatch, *, tensor: int) -> int:
    """Returns the bytes of all copies of the logits.

    Args:
      tensor: devices that the vocabulary is split over.
    """
    numbers = batch.rows * batch.text_tokens * decoder.vocab_size // tensor
    return 4 * LOGITS_COPIES * numbers


def _sees_in_itself(kind: LayerKind) -> bool:
    """Returns whether the layer's own attention sees the image, not an adapter."""
    return kind.sees_image and not kind.has_adapter


def _bytes_of_layer(
    config: VLMConfig, batch: DeviceBatch, *, queries: int, keys: int
) -> int:
    numbers, scores = decoder_layer_numbers(config, queries=queries, keys=keys)
    size = BYTES[config.compute_dtype]
    return batch.rows * (size * numbers + 4 * scores)


def _adapter_bytes(config: VLMConfig, batch: DeviceBatch) -> int:
    """Returns the bytes of an adapter: norms, taps, keys and values, mixed values."""
    decoder, heads = config.decoder, config.adapter.num_kv_heads
    text, image = batch.text_tokens, batch.image_tokens
    numbers = image * (2 * decoder.width + 2 * heads * decoder.head_dim)
    # Norm and what is looked up; queries and mixed values.
    numbers += text * 2 * (decoder.width + decoder.heads_width)
    scores = _scores(config, decoder.num_heads, text, image)
    size = BYTES[config.compute_dtype]
    return batch.rows * (size * numbers + 4 * scores)
