"""The published preset with a network small enough for golden figures.

    --config=tests/golden_config.py:IMPORTED

IMPORTED is the workdir of the imported network that the run begins with.
"""

import dataclasses
import sys
from typing import Any

import ml_collections

import visor_jax
from configs import universal

_PRESET, _NAME = "llava_ov_0p5b", "golden"


def get_config(imported: str) -> ml_collections.ConfigDict:
    """Returns the configuration of a short run on the imported network."""
    # Computed again in the backward pass, as at the published sizes.
    _add_variant(dataclasses.replace(visor_jax.load(imported).config, remat="layer"))
    config = universal.get_config(_PRESET)
    config.model.variant = _NAME
    config.init_from = imported
    return config


def _add_variant(network: Any) -> None:
    """Adds the network to those that a configuration can name.

    No flag describes a network of other sizes. The table of those that exist is found
    by what it holds, because its module and its name may change.
    """
    modules = [m for name, m in sys.modules.items() if name.startswith("visor_jax")]
    tables = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, dict) and callable(value.get(_PRESET))
    ]
    if not tables:
        raise LookupError(f"No table in visor_jax says what {_PRESET!r} is.")
    for table in tables:
        table[_NAME] = lambda: network
