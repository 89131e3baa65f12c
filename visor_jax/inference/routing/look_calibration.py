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
from visor_jax.look import BASE
from visor_jax.look_cascade import LookCascade


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
    network = network.looking_at(BASE)
    answers, without = [], []
    for number, request in enumerate(requests):
        # Gone with its turn: it holds the image's keys on the device.
        prompt = LookedPrompt(
            network=network,
            request=request,
            budget=budget,
            max_new_tokens=max_new_tokens,
        )
        if not prompt.has_tiles:
            without.append(number)
        elif not without:
            answers.append((prompt.first, prompt.second))
    if without or not answers:
        raise ValueError(
            f"Requests {without} have no image that is cut into tiles: there is "
            "nothing to look at again."
        )
    agrees = np.array([first.text == second.text for first, second in answers])
    looks = TwoLooks(
        confidence=np.array([first.confidence for first, _ in answers]),
        scores=np.stack([agrees, np.ones(len(agrees))]).astype(np.float64),
        agrees=agrees,
        first_cost=np.array([first.flops for first, _ in answers], np.float64),
        again_cost=np.array([second.flops for _, second in answers], np.float64),
    )
    return LookCascade(threshold_for_agreement(looks, agreement)), looks
