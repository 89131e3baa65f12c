"""The network once more, in float64 NumPy with plain loops, one sample at a time.

Written from the description of the method and of LLaVA-OneVision, not from the package:
no batches, no padding (invalid tokens do not exist here), no concatenated streams, one
query after the other. Slow and obvious.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from visor_jax.batch import Batch
from visor_jax.layer_plan import READ, LayerKind
from visor_jax.models.config import DecoderConfig, VLMConfig


@dataclasses.dataclass
class Token:
    """One valid token; `hidden` changes from layer to layer."""

    hidden: np.ndarray
    position: int
    segment: int


@dataclasses.dataclass
class Result:
    """Logits of the valid text tokens, the image stream after every layer, in order.

    looked: {CROSS layer: where the last text token looks, mean over heads}.
    """

    logits: np.ndarray
    image_after: list[np.ndarray]
    looked: dict[int, np.ndarray]


def forward(params: Any, config: VLMConfig, batch: Batch, gates: Any) -> list[Result]:
    """Returns one `Result` per sample; `gates` has one bool per SELF layer."""
    params = _float64(params["params"])
    rows = range(batch.tokens.shape[0])
    return [_sample(params, config, batch, row, gates) for row in rows]


def plain_llava(
    params: Any, config: VLMConfig, batch: Batch, row: int, order: list[tuple[str, int]]
) -> np.ndarray:
    """Returns the logits of one spliced sequence under an ordinary causal decoder.

    `order` spells the sequence, e.g. [("text", 0), ("image", 0), ("image", 1)]. There
    are no segments: tokens are numbered as they stand and see all before them.
    """
    params = _float64(params["params"])
    streams = {
        "text": [t.hidden for t in _text_tokens(params, batch, row)],
        "image": [t.hidden for t in _image_tokens(params, config, batch, row)],
    }
    sequence = [
        Token(streams[kind][index], position, 0)
        for position, (kind, index) in enumerate(order)
    ]
    decoder = params["language_model"]
    for layer in range(config.plan.num_layers):
        _qwen2_layer(decoder[f"layers_{layer}"], config.decoder, sequence, sequence)
    return _logits(params, config, sequence)


def tower(params: Any, config: VLMConfig, crop: np.ndarray) -> np.ndarray:
    """Returns SigLIP's features (P, E) of one crop, without the final norm."""
    c, p = config.vision, params["embeddings"]["patch_embedding"]
    size = c.patch_size
    x = []
    for row in range(c.patches_per_side):
        for column in range(c.patches_per_side):
            top, left = row * size, column * size
            patch = crop[top : top + size, left : left + size]
            x.append(np.tensordot(patch, p["kernel"], 3) + p["bias"])
    x = np.stack(x) + params["embeddings"]["position_embedding"]["embedding"]
    for index in range(c.num_layers):
        block = params["encoder"][f"layers_{index}"]
        x = x + _vision_attention(
            block["self_attn"], c, _layer_norm(block["layer_norm1"], x, c.norm_eps)
        )
        y = _layer_norm(block["layer_norm2"], x, c.norm_eps)
        y = _gelu_tanh(_linear(block["mlp"]["fc1"], y))
        x = x + _linear(block["mlp"]["fc2"], y)
    return x


def project(params: Any, config: VLMConfig, features: np.ndarray) -> np.ndarray:
    """Returns the projected patches (P, D) of one crop."""
    y = _linear(params["linear_2"], _gelu_exact(_linear(params["linear_1"], features)))
    if config.grid_embedding:
        side = config.vision.patches_per_side
        for row in range(side):
            for column in range(side):
                y[row * side + column] += params["row_embedding"][row]
                y[row * side + column] += params["column_embedding"][column]
    if config.projector_convolution is not None:
        y = y + _around(params["convolution_kernel"], config, y)
    return y


def _around(kernel: np.ndarray, config: VLMConfig, y: np.ndarray) -> np.ndarray:
    side, reach = config.vision.patches_per_side, len(kernel) // 2
    found = np.zeros_like(y)
    for here, (row, column) in enumerate(np.ndindex(side, side)):
        for there, (other_row, other_column) in enumerate(np.ndindex(side, side)):
            down, across = other_row - row + reach, other_column - column + reach
            if 0 <= down < len(kernel) and 0 <= across < len(kernel):
                found[here] += y[there] @ kernel[down, across]
    return found


def _sample(
    params: Any, config: VLMConfig, batch: Batch, row: int, gates: Any
) -> Result:
    text = _text_tokens(params, batch, row)
    image = _image_tokens(params, config, batch, row)
    on = dict(zip(config.plan.self_layers, gates, strict=True))
    after, looked = [], {}
    for index, kind in enumerate(config.plan.kinds):
        layer = params["language_model"][f"layers_{index}"]
        gate = on.get(index, kind is not LayerKind.TEXT)
        if kind is LayerKind.READ or gate is READ:
            _qwen2_layer(layer, config.decoder, text, image + text)
        elif kind is LayerKind.SELF and gate:
            _qwen2_layer(layer, config.decoder, image + text, image + text)
        else:
            if kind is LayerKind.CROSS:
                looked[index] = _adapter(layer["cross_attention"], config, text, image)
            _qwen2_layer(layer, config.decoder, text, text)
        after.append(np.array([token.hidden for token in image]))
    return Result(_logits(params, config, text), after, looked)


def _text_tokens(params: Any, batch: Batch, row: int) -> list[Token]:
    table = params["language_model"]["embed_tokens"]["embedding"]
    return [
        Token(
            table[batch.tokens[row, i]],
            int(batch.text_positions[row, i]),
            int(batch.text_segments[row, i]),
        )
        for i in range(batch.tokens.shape[1])
        if batch.text_mask[row, i]
    ]


def _image_tokens(
    params: Any, config: VLMConfig, batch: Batch, row: int
) -> list[Token]:
    places = []
    for crop in np.asarray(batch.pixels[row], np.float64):
        features = tower(params["vision_tower"], config, crop)
        places += list(project(params["multi_modal_projector"], config, features))
    if config.image_newline:
        places.append(params["image_newline"])
    return [
        Token(
            places[batch.image_token_index[row, i]],
            int(batch.image_positions[row, i]),
            0,
        )
        for i in range(batch.image_mask.shape[1])
        if batch.image_mask[row, i]
    ]


def _qwen2_layer(
    layer: Any, config: DecoderConfig, tokens: list[Token], keys: list[Token]
) -> None:
    """Changes the tokens in place; all queries see the keys as they were before."""
    attention, width = layer["self_attn"], config.head_dim
    scale = layer["input_layernorm"]["scale"]
    cached = []
    for token in keys:
        normed = _rms_norm(scale, token.hidden, config.norm_eps)
        key = _linear(attention["k_proj"], normed).reshape(-1, width)
        key = _head_norm(attention, "k_norm", key, config.norm_eps)
        value = _linear(attention["v_proj"], normed).reshape(-1, width)
        cached.append((_rope(key, token.position, config.rope_theta), value))
    mixed = []
    for token in tokens:
        normed = _rms_norm(scale, token.hidden, config.norm_eps)
        query = _linear(attention["q_proj"], normed).reshape(-1, width)
        query = _head_norm(attention, "q_norm", query, config.norm_eps)
        query = _rope(query, token.position, config.rope_theta)
        seen = [kv for kv, key in zip(cached, keys, strict=True) if _sees(token, key)]
        mixed.append(_attend(query, seen))
    for token, heads in zip(tokens, mixed, strict=True):
        token.hidden = token.hidden + _linear(attention["o_proj"], heads)
        normed = _rms_norm(
            layer["post_attention_layernorm"]["scale"], token.hidden, config.norm_eps
        )
        gate = _linear(layer["mlp"]["gate_proj"], normed)
        up = _linear(layer["mlp"]["up_proj"], normed)
        swiglu = gate / (1 + np.exp(-gate)) * up
        token.hidden = token.hidden + _linear(layer["mlp"]["down_proj"], swiglu)


def _adapter(
    adapter: Any, config: VLMConfig, text: list[Token], image: list[Token]
) -> np.ndarray:
    """Changes the text in place; returns the weights of its last token."""
    width, eps = config.decoder.head_dim, config.decoder.norm_eps
    kernel = adapter["position_conv"]
    half = config.adapter.conv_kernel // 2
    normed = [_rms_norm(adapter["image_norm"]["scale"], t.hidden, eps) for t in image]
    cached = []
    for place in range(len(image)):
        placed = normed[place].copy()
        for tap in range(config.adapter.conv_kernel):
            neighbour = place + tap - half
            if 0 <= neighbour < len(image):
                placed += kernel[tap] * normed[neighbour]
        key = _linear(adapter["k_proj"], placed).reshape(-1, width)
        key = _head_norm(adapter, "k_norm", key, eps)
        cached.append((key, _linear(adapter["v_proj"], placed).reshape(-1, width)))
    last = np.zeros(len(image))
    for token in text:
        sees = [_sees(token, key) for key in image]
        seen = [kv for kv, sees_it in zip(cached, sees, strict=True) if sees_it]
        if seen:
            query = _rms_norm(adapter["text_norm"]["scale"], token.hidden, eps)
            query = _linear(adapter["q_proj"], query).reshape(-1, width)
            query = _head_norm(adapter, "q_norm", query, eps)
            looked = _linear(adapter["o_proj"], _attend(query, seen))
            token.hidden = token.hidden + looked
            last[sees] = np.mean(_weights(query, seen), axis=0)
    return last


def _sees(query: Token, key: Token) -> bool:
    return key.position <= query.position and key.segment in (0, query.segment)


def _attend(query: np.ndarray, seen: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Returns the mixed values of all heads, merged."""
    group = len(query) // seen[0][0].shape[0]
    out = []
    for head, weights in enumerate(_weights(query, seen)):
        values = np.array([value[head // group] for _, value in seen])
        out.append(weights @ values)
    return np.concatenate(out)


def _weights(
    query: np.ndarray, seen: list[tuple[np.ndarray, np.ndarray]]
) -> list[np.ndarray]:
    """Returns the softmax over what is seen, head by head."""
    heads, width = query.shape
    group = heads // seen[0][0].shape[0]
    return [
        _softmax(
            np.array(
                [query[head] @ key[head // group] / math.sqrt(width) for key, _ in seen]
            )
        )
        for head in range(heads)
    ]


def _rope(heads: np.ndarray, position: int, theta: float) -> np.ndarray:
    half = heads.shape[1] // 2
    out = np.empty_like(heads)
    for i in range(half):
        angle = position * theta ** (-2 * i / heads.shape[1])
        turned = (heads[:, i] + 1j * heads[:, i + half]) * np.exp(1j * angle)
        out[:, i], out[:, i + half] = turned.real, turned.imag
    return out


def _vision_attention(params: Any, config: Any, x: np.ndarray) -> np.ndarray:
    query, key, value = (
        _linear(params[f"{name}_proj"], x).reshape(len(x), config.num_heads, -1)
        for name in "qkv"
    )
    out = np.empty_like(query)
    for head in range(config.num_heads):
        for i in range(len(x)):
            scores = key[:, head] @ query[i, head] / math.sqrt(config.head_dim)
            out[i, head] = _softmax(scores) @ value[:, head]
    return _linear(params["out_proj"], out.reshape(len(x), -1))


def _logits(params: Any, config: VLMConfig, tokens: list[Token]) -> np.ndarray:
    decoder, eps = params["language_model"], config.decoder.norm_eps
    scale = decoder["norm"]["scale"]
    normed = np.array([_rms_norm(scale, t.hidden, eps) for t in tokens])
    if config.decoder.tie_embeddings:
        return normed @ decoder["embed_tokens"]["embedding"].T
    return normed @ params["lm_head"]["kernel"]


def _linear(params: Any, x: np.ndarray) -> np.ndarray:
    return x @ params["kernel"] + params.get("bias", 0.0)


def _rms_norm(scale: np.ndarray, x: np.ndarray, eps: float) -> np.ndarray:
    return x / math.sqrt(np.mean(x * x) + eps) * scale


def _head_norm(params: Any, name: str, heads: np.ndarray, eps: float) -> np.ndarray:
    """Returns the heads (N, H), each normalised where there is a norm for them."""
    if name not in params:
        return heads
    scale = params[name]["scale"]
    return np.array([_rms_norm(scale, head, eps) for head in heads])


def _layer_norm(params: Any, x: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return centred / deviation * params["scale"] + params["bias"]


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def _gelu_exact(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _float64(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _float64(branch) for name, branch in tree.items()}
    return np.asarray(tree, np.float64)
