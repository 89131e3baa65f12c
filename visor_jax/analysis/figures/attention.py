"""How much of its attention text gives the image, layer by layer.

    share     sum over image tokens of a prompt's last token's attention, mean over
              heads; the softmax is over all that the token sees, image and text
    relative  share / (image tokens / tokens seen): 1 where it looks at all alike
    text      the share, mean over all text tokens of the prompt

A CROSS layer's adapter sees nothing but the image: its share is 1 whatever it does.
Said of it instead is ||what it adds to the last token|| / ||the last token||. Rows of
text alone are computed, some at a time.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

from visor_jax.analysis.figures import drawing
from visor_jax.analysis.means import means_by_kind
from visor_jax.analysis.study import Prompts, Study
from visor_jax.layer_plan import StaticGate
from visor_jax.models.decoder.decoder_layer import DecoderLayer
from visor_jax.models.decoder.decoder_state import DecoderState
from visor_jax.models.vision.image_tokens import ImageTokens
from visor_jax.models.vlm import VLM
from visor_jax.ops.attention_weights import attention_weights
from visor_jax.ops.masks import TokenTags, visible
from visor_jax.sharding.programs import mesh_jit

SHARE, RELATIVE, TEXT, ADDED = "share", "relative", "share_of_text", "added"
# Text tokens whose attention is in memory at once.
_ROWS = 16


def content(study: Study) -> dict[str, Any]:
    """Returns every measure's means by kind, a number a layer; None for none."""
    examples, parts = [], []
    for prompts in study.batches():
        parts.append(attention_of(study, prompts))
        examples += prompts.examples
    groups = study.benchmark.groups
    return {
        "layers": list(study.ways),
        **{
            name: means_by_kind(
                np.concatenate([part[name] for part in parts]), examples, groups
            )
            for name in (SHARE, RELATIVE, TEXT, ADDED)
        },
    }


def attention_of(study: Study, prompts: Prompts) -> dict[str, Float[np.ndarray, "n L"]]:
    """Returns every measure of every example's prompt; NaN where there is none."""
    ways, count = study.ways, len(prompts.examples)
    found = _measures(
        study.network.params,
        prompts.tokens,
        prompts.text,
        prompts.image_tokens,
        prompts.image,
        prompts.last,
        model=study.network.vlm,
        gates=study.gates,
        ways=ways,
    )
    measures = {}
    for name in (SHARE, RELATIVE, TEXT, ADDED):
        columns = np.full((count, len(ways)), np.nan)
        for layer, values in found.items():
            if name in values:
                columns[:, layer] = np.asarray(values[name], np.float64)[:count]
        measures[name] = columns
    # Text that sees no image gives it nothing.
    blind = [i for i, way in enumerate(ways) if way in ("text", "off")]
    measures[SHARE][:, blind] = measures[RELATIVE][:, blind] = 0.0
    measures[TEXT][:, blind] = 0.0
    return measures


@mesh_jit(static_argnames=("model", "gates", "ways"))
def _measures(
    params: Any,
    tokens: Int[Array, "B T"],
    text: TokenTags,
    image_tokens: ImageTokens,
    image: TokenTags,
    last: Int[Array, "B"],
    *,
    model: VLM,
    gates: tuple[StaticGate, ...],
    ways: tuple[str, ...],
) -> dict[int, dict[str, Array]]:
    def run(module: VLM) -> dict[int, dict[str, Array]]:
        state, found = module.begin(tokens, text, image_tokens, image), {}
        for index, way in enumerate(ways):
            layer = module.language_model.layers[index]
            if way == "cross":
                found[index] = {ADDED: _added(layer, state, last)}
            elif way in ("self", "read"):
                found[index] = _shares(layer, state, last)
            state, _ = module.run(state, gates, start=index, stop=index + 1)
        return found

    return model.apply({"params": params}, method=run)


def _added(
    layer: DecoderLayer, state: DecoderState, last: Int[Array, "B"]
) -> Float[Array, "B"]:
    adapter, text = layer.cross_attention, state.text.take(last[:, None])
    added = adapter.added(text, adapter.keys_values(state.image), state.image.tags)
    size, whole = (
        jnp.linalg.norm(x.astype(jnp.float32), axis=-1)[:, 0]
        for x in (added, text.hidden)
    )
    return size / whole


def _shares(
    layer: DecoderLayer, state: DecoderState, last: Int[Array, "B"]
) -> dict[str, Float[Array, "B"]]:
    text, image = state.text, state.image
    queries, keys = layer.asking(text), layer.asked(image, text)
    both = image.tags.concat(text.tags)

    def look(rows: Int[Array, "B R"]) -> tuple[Array, Array, Array]:
        """Returns the shares of these tokens, and what they see of image and of all."""
        tags = text.tags.take(rows)
        asking = jnp.take_along_axis(queries, rows[:, :, None, None], axis=1)
        weights = attention_weights(asking, keys, tags)
        share = weights[..., : image.length].sum(axis=-1)
        return share, visible(tags, image.tags).sum(-1), visible(tags, both).sum(-1)

    share, seen, tokens = (each[:, 0] for each in look(last[:, None]))
    every = jax.lax.map(lambda rows: look(rows)[0], _in_parts(text.tags))
    # (parts, B, R) to (B, T), what fills up the last part cut off.
    every = jnp.moveaxis(every, 0, 1).reshape(len(last), -1)[:, : text.length]
    valid = text.tags.valid
    mean = jnp.where(valid, every, 0).sum(axis=1) / jnp.maximum(valid.sum(axis=1), 1)
    uniform = seen / jnp.maximum(tokens, 1)
    relative = jnp.where(seen > 0, share / uniform, jnp.nan)
    return {SHARE: share, RELATIVE: relative, TEXT: mean}


def _in_parts(tags: TokenTags) -> Int[Array, "parts B R"]:
    """Returns the indices of all text tokens, some at a time; the last repeats."""
    batch, length = tags.order.shape
    parts = -(-length // _ROWS)
    index = jnp.minimum(jnp.arange(parts * _ROWS), length - 1).reshape(parts, 1, -1)
    return jnp.broadcast_to(index, (parts, batch, _ROWS))


def draw(contents: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Returns the shares, and below them what adapters add, a column a benchmark."""
    rows = [
        ("image's share of the\nlast token's attention", SHARE),
        ("share / that of\neven attention", RELATIVE),
    ]
    if any("cross" in each["layers"] for each in contents.values()):
        rows.append(("adapter: added /\nlast token's norm", ADDED))
    return drawing.lines_by_layer(
        "Attention from text to image", contents, rows, marks=True
    )
