"""Which threshold a cascade over looks should have: every prompt is looked at twice.

    found, looks = calibrated_looks(model.network, requests, budget, max_new_tokens=8)
    model.generate("page.png", "What is this?", crops=found.name)

No label is needed: what is asked for is agreement with the look at all crops.
"""

from collections.abc import Sequence

import numpy as np

from visor_jax.budget import Budget
from visor_jax.data.prompts.request import Request
from visor_jax.inference.loading.network import Network
from visor_jax.inference.looking_twice import LookedPrompt
from visor_jax.inference.routing.cascade_calibration import (
    TwoLooks,
    threshold_for_agreement,
)
from visor_jax.inference.routing.look_cascade import LookCascade


def calibrated_looks(
    network: Network,
    requests: Sequence[Request],
    budget: Budget,
    *,
    max_new_tokens: int,
    agreement: float = 0.99,
) -> tuple[LookCascade, TwoLooks]:
    """Returns the cheapest cascade with so many answers of a look at all crops.

    And what it was found by: every prompt is answered by both looks. A score is whether
    an answer is that of all crops; costs are FLOPs.

    Args:
      requests: with one image each that is cut into tiles. agreement: share of answers
        that are to be those of all crops.

    Raises:
      ValueError: for a request without tiles, and as `threshold_for_agreement`.
    """
    network = network.showing(None, ["all"])
    prompts = [
        LookedPrompt(
            network=network,
            request=request,
            budget=budget,
            max_new_tokens=max_new_tokens,
        )
        for request in requests
    ]
    without = [i for i, prompt in enumerate(prompts) if not prompt.has_tiles]
    if without or not prompts:
        raise ValueError(
            f"Requests {without} have no image that is cut into tiles: there is "
            "nothing to look at again."
        )
    agrees = np.array([each.first.text == each.second.text for each in prompts])
    looks = TwoLooks(
        confidence=np.array([each.first.confidence for each in prompts]),
        scores=np.stack([agrees, np.ones(len(agrees))]).astype(np.float64),
        agrees=agrees,
        first_cost=np.array([each.first.flops for each in prompts], np.float64),
        again_cost=np.array([each.second.flops for each in prompts], np.float64),
    )
    return LookCascade(threshold_for_agreement(looks, agreement)), looks
