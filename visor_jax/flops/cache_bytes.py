"""The bytes of the KV cache by closed formula: what each budget makes decoding carry.

    layer            text keys and values       image keys and values
    TEXT, SELF off   text slots x K             none
    CROSS            text slots x K             image tokens x K of the adapter
    READ, SELF on    text slots x K             image tokens x K
    or at READ

times 2 (keys and values) x head width x bytes of a number. An adapter with as many K/V
heads as query heads (the paper's) caches more per image token than a grouped SELF
layer: at 0.5B seven times as much. A budget saves FLOPs; whether it saves cache, too,
this table says.
"""

import dataclasses
from collections.abc import Sequence

from visor_jax.budget import Budget
from visor_jax.models.config import VLMConfig
from visor_jax.models.variants import dense

_BYTES = {"float32": 4, "bfloat16": 2}
HEADER = (
    "MB = 1e6 bytes of keys and values for one prompt. The ratio is to the dense "
    "network of\nthe same size, which caches the image in every layer."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheBytes:
    """Bytes of keys and values, by what they are of."""

    text: int
    cross_image: int
    self_image: int

    @property
    def image(self) -> int:
        return self.cross_image + self.self_image

    @property
    def total(self) -> int:
        return self.text + self.image


def cache_bytes(
    config: VLMConfig,
    budget: Budget,
    *,
    text_slots: int,
    image_tokens: int,
    rows: int = 1,
    image_lengths: Sequence[int] | None = None,
) -> CacheBytes:
    """Returns the bytes that `rows` prompts keep while they are answered.

    Args:
      text_slots: of every row: the prompt's text, its padding, and room for the answer.
      image_tokens: of every row, padding included.
      image_lengths: of every row in each layer, where a token reducer drops some.

    Raises:
      ValueError: for a budget that is not of the model's plan, or a negative length.
    """
    budget.check(config.plan)
    if min(text_slots, image_tokens, rows) < 0:
        raise ValueError(f"{text_slots=}, {image_tokens=}, {rows=}: none below 0.")
    head = 2 * rows * config.decoder.head_dim * _BYTES[config.compute_dtype]
    own, adapters = config.decoder.num_kv_heads, config.adapter.num_kv_heads
    lengths, kinds = image_lengths, config.plan.kinds
    if lengths is None:
        lengths = (image_tokens,) * config.plan.num_layers
    on = config.plan.gate_of_layer(budget.gates(config.plan))
    seen = [i for i, k in enumerate(kinds) if k.sees_image and on.get(i, True)]
    cross = sum(lengths[i] for i in seen if kinds[i].has_adapter)
    return CacheBytes(
        text=head * own * text_slots * config.plan.num_layers,
        cross_image=head * adapters * cross,
        self_image=head * own * (sum(lengths[i] for i in seen) - cross),
    )


def cache_table(
    name: str,
    config: VLMConfig,
    budgets: Sequence[Budget],
    *,
    text_slots: int,
    image_tokens: int,
) -> str:
    """Returns a table of the cache of one prompt: every budget, then dense."""
    network = dense(config)
    lengths = {"text_slots": text_slots, "image_tokens": image_tokens}
    reference = cache_bytes(network, Budget.all(network.plan), **lengths)
    rows = [(b.name, cache_bytes(config, b, **lengths)) for b in budgets]
    lines = [
        f"{name}: {image_tokens} image tokens, {text_slots} text slots, "
        f"{config.compute_dtype}",
        f"{'budget':<24} {'text':>8} {'CROSS':>8} {'SELF':>8} {'MB':>8} {'/dense':>7}",
    ]
    for label, held in [*rows, ("dense", reference)]:
        parts = (held.text, held.cross_image, held.self_image, held.total)
        numbers = " ".join(f"{part / 1e6:8.2f}" for part in parts)
        lines.append(f"{label:<24} {numbers} {held.total / reference.total:7.2f}")
    return "\n".join(lines)
