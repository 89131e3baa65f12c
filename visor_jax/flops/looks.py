"""The FLOPs of looks: of the crops that are looked at, tower and projector included.

    one look      `account` of its crops, its image tokens and its budget
    second look   the missing crops; keys of new tokens and of the seam in layers that
                  read unrefined tokens (`inference.generation.second_look`); the text
                  once more, and all that refines the image

How many tokens a look sees depends on the image; `LookLengths` says it of one.
"""

import dataclasses
from collections.abc import Sequence

from visor_jax.budget import Budget
from visor_jax.flops.account import Account, account
from visor_jax.flops.table import GIGA, aligned
from visor_jax.look import Look
from visor_jax.models.config import VLMConfig
from visor_jax.models.variants import dense

COLUMNS = (
    "look",
    "crops",
    "image tokens",
    "tower",
    "projector",
    "LLM prefill",
    "end to end",
    "dense / look",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LookLengths:
    """What a look sees of one image: crops that are encoded, and image tokens."""

    crops: int
    image_tokens: int


def look_account(
    config: VLMConfig,
    budget: Budget,
    seen: LookLengths,
    *,
    text_tokens: int,
    logit_positions: int | None = 1,
) -> Account:
    """Returns the FLOPs of one look at one image.

    Raises:
      ValueError: as `account`.
    """
    return account(
        config,
        budget,
        text_tokens=text_tokens,
        image_tokens=seen.image_tokens,
        crops=seen.crops,
        logit_positions=logit_positions,
    )


def second_look_account(
    config: VLMConfig,
    first: Budget,
    budget: Budget,
    seen: LookLengths,
    *,
    missing: int,
    new_keys: int,
    text_tokens: int,
    batch: int = 1,
) -> Account:
    """Returns the FLOPs of a second look alone; those of the first come on top.

    Args:
      first, budget: of both looks. seen: by the second one, crops of the first
        included. missing: crops that it encodes. new_keys: tokens whose keys it makes
        (`LookDifference.new_keys`).

    Raises:
      ValueError: as `account`.
    """
    plan = config.plan
    until = min(plan.unrefined_until(b.gates(plan)) for b in (first, budget))
    on = [plan.gate_of_layer(b.gates(plan)) for b in (first, budget)]
    kept = [
        layer
        for layer in range(until)
        if plan.kinds[layer].sees_image and all(gate.get(layer, True) for gate in on)
    ]
    return account(
        config,
        budget,
        text_tokens=text_tokens,
        image_tokens=seen.image_tokens,
        crops=missing,
        logit_positions=1,
        batch=batch,
        at_hand=kept,
        new_image=new_keys,
    )


def look_table(
    variant: str,
    config: VLMConfig,
    looks: Sequence[tuple[Look, LookLengths]],
    whole: LookLengths,
    *,
    text_tokens: int,
) -> str:
    """Returns a table, one look a line, and the dense network with all crops last.

    Args:
      looks: with what each of them sees of the image. whole: all that it has.
    """
    network = dense(config)
    how = {"text_tokens": text_tokens}
    reference = look_account(network, Budget.all(network.plan), whole, **how)
    rows = [
        (look.name, look_account(config, look.budget, seen, **how))
        for look, seen in looks
    ]
    rows.append(("all crops, dense", reference))
    title = (
        f"{variant}: an image of {whole.crops} crops ({whole.image_tokens} image "
        f"tokens), {text_tokens} text tokens, logits at 1; GFLOP"
    )
    cells = [
        (
            name,
            str(each.crops),
            str(each.image_tokens),
            f"{each.tower.total / GIGA:.0f}",
            f"{each.projector / GIGA:.0f}",
            f"{each.llm_prefill / GIGA:.0f}",
            f"{each.end_to_end / GIGA:.0f}",
            f"{reference.end_to_end / each.end_to_end:.2f}x",
        )
        for name, each in rows
    ]
    return "\n".join([title, *aligned([COLUMNS, *cells])])
