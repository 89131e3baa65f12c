"""The NumPy network layer by layer: what each does with the image is told one by one.

Over the parts of `tests.models.numpy_reference`; one sample at a time, no batches.
"""

import copy
import dataclasses

import numpy as np

from tests.models import numpy_reference as reference

# The image is refined, text does not see it.
ALONE = "alone"


@dataclasses.dataclass
class Pass:
    """What came of one sample.

    log_probs: (W,) behind the last text token. images: the image before every layer and
    behind the last. shares: {layer: of every text token, of all that it sees, which is
    image}. added: {layer: what the adapter added to the last token / its norm}.
    """

    log_probs: np.ndarray
    images: list[np.ndarray]
    shares: dict[int, list[float]]
    added: dict[int, float]
    evens: dict[int, float]


def run(params, config, batch, row, ways) -> Pass:
    """Returns the pass of one sample; ways: "text", "cross", "read", "self", ALONE."""
    params = reference._float64(params)
    text = reference._text_tokens(params, batch, row)
    image = reference._image_tokens(params, config, batch, row)
    decoder, images, shares, added, evens = config.decoder, [], {}, {}, {}
    for index, way in enumerate(ways):
        images.append(np.array([token.hidden for token in image]))
        layer = params["language_model"][f"layers_{index}"]
        if way in ("self", "read"):
            shares[index], evens[index] = _shares(layer, decoder, text, image)
        if way == "cross":
            before = text[-1].hidden.copy()
            reference._adapter(layer["cross_attention"], config, text, image)
            change = np.linalg.norm(text[-1].hidden - before)
            added[index] = change / np.linalg.norm(before)
        seen = copy.deepcopy(image)
        if way in ("self", ALONE):
            keys = copy.deepcopy(text)
            reference._qwen2_layer(layer, decoder, image, seen + keys)
        among = seen + text if way in ("self", "read") else text
        reference._qwen2_layer(layer, decoder, text, among)
    images.append(np.array([token.hidden for token in image]))
    logits = reference._logits(params, config, text)[-1]
    log_probs = logits - logits.max()
    log_probs -= np.log(np.exp(log_probs).sum())
    return Pass(log_probs, images, shares, added, evens)


def _shares(layer, config, text, image):
    """Returns the image's share of every text token's attention, and the last's n."""
    attention, width, eps = layer["self_attn"], config.head_dim, config.norm_eps
    scale = layer["input_layernorm"]["scale"]

    def heads(token, name):
        normed = reference._rms_norm(scale, token.hidden, eps)
        found = reference._linear(attention[name], normed).reshape(-1, width)
        return reference._rope(found, token.position, config.rope_theta)

    keys = [(heads(token, "k_proj"), None) for token in [*image, *text]]
    shares = []
    for token in text:
        sees = [reference._sees(token, key) for key in [*image, *text]]
        seen = [kv for kv, there in zip(keys, sees, strict=True) if there]
        weights = np.mean(reference._weights(heads(token, "q_proj"), seen), axis=0)
        count = sum(sees[: len(image)])
        np.testing.assert_allclose(weights.sum(), 1)
        shares.append(float(weights[:count].sum()))
        even = count / sum(sees)
    return shares, even


def cka(x, y) -> float:
    """Returns linear CKA from the kernels of tokens by tokens, the other way round."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    k, m = x @ x.T, y @ y.T
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))
