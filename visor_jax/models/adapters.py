"""Which shape adapters have, and what new ones start as.

Shapes, by name:

- `decoder`: as many key/value heads as the decoder's own attention (grouped queries).
  Keys and values of the image are most of what a cheap budget computes and all of what
  it caches, so that this is the default at the published sizes.
- `paper`: as many key/value heads as query heads.

New adapters start `random`, or as their layer's `own` self-attention: norms, queries,
keys and values are copied, and look at the image as the layer would, but for the rotary
positions that adapters do not have. Either way the output projection starts at zero.
"""

import dataclasses
import re
from collections.abc import Collection

from visor_jax.models.config import VLMConfig

SHAPES = ("decoder", "paper")
RANDOM, OWN = "random", "own"
INITS = (RANDOM, OWN)

_PARAMETER = re.compile(r"(.*/layers_\d+)/cross_attention/(\w+)/(\w+)")


def with_adapters(
    config: VLMConfig, shape: str | None = None, init: str = RANDOM
) -> VLMConfig:
    """Returns the network with adapters of this shape that can start like this.

    Args:
      shape: one of SHAPES; None for what the network has.
      init: one of INITS. To start as its layer's own attention an adapter needs all
        that this has: key/value heads, biases, norms.

    Raises:
      ValueError: for an unknown name, or a shape that cannot start like this.
    """
    if shape not in (None, *SHAPES):
        raise ValueError(f"adapters={shape!r} is not one of {SHAPES}.")
    if init not in INITS:
        raise ValueError(f"adapter_init={init!r} is not one of {INITS}.")
    decoder, changes = config.decoder, {}
    if shape is not None:
        is_full = shape == "paper"
        heads = decoder.num_heads if is_full else decoder.num_kv_heads
        changes["num_kv_heads"] = heads
    if init == OWN:
        changes |= {"qkv_bias": decoder.qkv_bias, "qk_norm": decoder.qk_norm}
    adapter = dataclasses.replace(config.adapter, **changes)
    if init == OWN and adapter.num_kv_heads != decoder.num_kv_heads:
        raise ValueError(
            f"adapter_init={OWN!r} copies {decoder.num_kv_heads} key/value heads and "
            f"the adapters have {adapter.num_kv_heads}: set adapters='decoder'."
        )
    return config.replace(adapter=adapter)


def own_sources(paths: Collection[str]) -> dict[str, str]:
    """Returns {adapter's parameter: that of its layer which it starts as}.

    Args:
      paths: of parameters ("language_model/layers_0/cross_attention/q_proj/kernel");
        others than an adapter's, and what a layer has nothing like, are left out.
    """
    found = {}
    for path in paths:
        match = _PARAMETER.fullmatch(path)
        if match is None:
            continue
        layer, module, name = match.groups()
        if module in ("text_norm", "image_norm"):
            found[path] = f"{layer}/input_layernorm/{name}"
        elif module in ("q_proj", "k_proj", "v_proj", "q_norm", "k_norm"):
            found[path] = f"{layer}/self_attn/{module}/{name}"
    return found
