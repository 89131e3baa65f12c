"""What crops a network may be asked to look at, and by which rule it is shown them."""

import logging

from visor_jax.data.prompts.looking import CropRule
from visor_jax.look import ALL, BASE, Crops
from visor_jax.models.config import VLMConfig
from visor_jax.runtime.arguments import shown

_logger = logging.getLogger(__name__)


def crops_of(said: object) -> Crops:
    """Returns the crops that a caller asks for.

    Args:
      said: "all" or None, "base", how many tiles beside the base view, or a name of
        `Crops.parse`.

    Raises:
      ValueError: for anything else, and for 0 tiles.
    """
    if said is None or isinstance(said, Crops):
        return ALL if said is None else said
    if isinstance(said, int) and not isinstance(said, bool):
        said = str(said)
    if not isinstance(said, str):
        raise ValueError(
            f"crops={shown(said)} is neither a name ('base', 'all', 'base+2') nor how "
            "many tiles to look at beside the base view."
        )
    if not said.removeprefix("-").isdecimal():
        return Crops.parse(said)
    if int(said) < 1:
        raise ValueError(
            f"crops={said}: a number counts tiles beside the base view, from 1 on; "
            "write 'base' for none."
        )
    return Crops(int(said))


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
