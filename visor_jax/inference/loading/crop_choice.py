"""By which rule a network is shown some crops of an image."""

import logging

from visor_jax.data.prompts.looking import CropRule
from visor_jax.look import BASE, Crops
from visor_jax.models.config import VLMConfig

_logger = logging.getLogger(__name__)


def rule_for(config: VLMConfig, crops: Crops, said: str | None = None) -> CropRule:
    """Returns how a network is shown these crops; logs where it does not know them.

    Args:
      said: the name of a rule, None for the one that fits the network.

    Raises:
      ValueError: for an unknown rule, or where none fits.
    """
    names = [rule.value for rule in CropRule]
    if said is not None and said not in names:
        raise ValueError(f"Unknown rule {said!r} for crops: write one of {names}.")
    if config.any_crops:
        return CropRule.AS_ALL if said is None else CropRule(said)
    if said is None and crops != BASE:
        raise ValueError(
            f"The network was not trained on some crops of an image, as {crops.name!r} "
            "asks: take 'base' or 'all', train it with data.any_crops=True, or say "
            f"rule={CropRule.AS_ALL.value!r} to see what it makes of them."
        )
    rule = CropRule.ALONE if said is None else CropRule(said)
    _logger.warning(
        "the network was not trained on some crops of an image: %s is shown to it by "
        "the rule %r",
        crops.name,
        rule.value,
    )
    return rule
