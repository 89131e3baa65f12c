"""Stage B of a VISOR network: everything trains, all SELF layers are on.

    python -m visor_jax.train --config=configs/stage_b.py:llava_ov_0p5b \
        --config.init_from=STAGE_A --config.data.path=DATA --workdir=DIR

The paper trains on about 3.2 million samples here. Universal training goes on from the
result: `configs/universal.py --config.init_from=STAGE_B`.
"""

import ml_collections

from configs import common

_SAMPLES = 3_200_000


def get_config(preset: str = "mini") -> ml_collections.ConfigDict:
    """Returns the configuration of a preset ("mini", "llava_ov_0p5b", ...)."""
    config = common.maximal(preset, _SAMPLES)
    config.label = "stage:b"
    return config
