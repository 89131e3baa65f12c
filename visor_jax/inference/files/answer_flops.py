"""The FLOPs of an answer as it was computed, and those of the dense network for it."""

import functools

from visor_jax.budget import Budget
from visor_jax.flops.account import account
from visor_jax.inference.answers import Answer
from visor_jax.inference.options import Attempt
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.token_reducer import TokenReducer
from visor_jax.models.vlm import VLM
from visor_jax.token_reduction.prompt_account import prompt_account


def flops_of(answer: Answer, model: VLM) -> dict[str, int]:
    """Returns the FLOPs of an answer at its own lengths, by part.

    "crop_selection" is there only if a method drops tokens before the LLM.
    Without padding, and without what was at hand of an earlier request: tower and
    projector are 0 for an image that was, and in layers whose keys and values of it
    were, only text is counted. Of a cascade all looks: the later one without tower and
    trunk, and the decoding of the first answer counts though nobody reads it. So does
    all of an unsure look at the base view. "choosing" is there only if the network
    chose tiles: of its look before.
    """
    own = Attempt(
        budget=answer.budget,
        confidence=None,
        steps=answer.steps,
        at_hand=answer.at_hand,
    )
    looks = answer.looks or (own,)
    counted = _flops(
        model.reducer,
        model.config,
        tuple((look.budget, look.steps, tuple(look.at_hand)) for look in looks),
        text_tokens=answer.text_tokens,
        image_tokens=answer.image_tokens,
        image_slots=answer.image_slots,
        crops=answer.crops if answer.encoded else 0,
    )
    chosen = (answer.looked_at or {}).get("choosing_flops")
    if chosen is not None:
        counted = {"choosing": chosen, **counted}
    if answer.first_look is None:
        return dict(counted)
    before = flops_of(answer.first_look, model)
    # Either look may be the only one with a part of its own.
    return {
        part: before.get(part, 0) + counted.get(part, 0) for part in before | counted
    }


# Most answers have lengths that an earlier one had.
@functools.lru_cache(maxsize=4096)
def _flops(
    reducer: TokenReducer,
    config: VLMConfig,
    looks: tuple[tuple[Budget, int, tuple[int, ...]], ...],
    **lengths: int,
) -> dict[str, int]:
    """Returns what `flops_of` does; looks: budget, steps and layers at hand of each."""
    counted = [
        prompt_account(reducer, config, budget, at_hand=at_hand, **lengths)
        for budget, _, at_hand in looks
    ]
    first, again = counted[0], counted[1:]
    own = first.crop_selection
    return {
        **({"crop_selection": own} if own else {}),
        "tower": first.tower.total,
        "projector": first.projector,
        "llm_prefill": first.llm_prefill + sum(each.behind_trunk for each in again),
        "decode": sum(
            cost.decode_tokens(steps)
            for cost, (_, steps, _) in zip(counted, looks, strict=True)
        ),
    }


def dense_flops_of(answer: Answer, model: VLM) -> dict[str, int]:
    """Returns what the dense network takes for an answer of this length, by part.

    For one look at all image tokens, with nothing at hand.
    """
    counted = _dense_flops(
        model.config,
        answer.budget,
        answer.steps,
        text_tokens=answer.text_tokens,
        image_tokens=answer.image_tokens,
        crops=answer.crops,
    )
    return dict(counted)


@functools.lru_cache(maxsize=4096)
def _dense_flops(
    config: VLMConfig, budget: Budget, steps: int, **lengths: int
) -> dict[str, int]:
    """Returns what `dense_flops_of` does."""
    dense = account(config, budget, logit_positions=1, **lengths).dense()
    return {
        "tower": dense.tower.total,
        "projector": dense.projector,
        "llm_prefill": dense.llm_prefill,
        "decode": dense.decode_tokens(steps),
    }
