"""The FLOPs of a prompt whose image tokens a method drops, its own work included."""

from collections.abc import Collection

from visor_jax.budget import Budget
from visor_jax.flops.account import Account, account
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.token_reducer import (
    TokenReducer,
    crop_flops,
    in_bucket,
    selection_flops,
)
from visor_jax.models.vision.crop_features import reads_of


def prompt_account(
    reducer: TokenReducer,
    config: VLMConfig,
    budget: Budget,
    *,
    text_tokens: int,
    image_tokens: int,
    image_slots: int,
    crops: int,
    at_hand: Collection[int] = (),
) -> Account:
    """Returns the account of one prompt at its own lengths, with one row of logits.

    Args:
      image_slots: image tokens that it was padded to, by which a method may go; 0 for
        no padding.
      crops: that went through the tower for it. at_hand: see `account`.
    """
    reducer = in_bucket(reducer, image_slots or image_tokens)
    prompt = {"text_tokens": text_tokens, "image_tokens": image_tokens}
    return account(
        config,
        budget,
        **prompt,
        crops=crops,
        logit_positions=1,
        image_lengths=reducer.image_lengths(image_tokens, config.plan.num_layers),
        selection=selection_flops(reducer, config, **prompt),
        crop_selection=crop_flops(reducer, config, crops=crops),
        tower_side=reads_of(reducer).side,
        at_hand=at_hand,
    )
