"""Stage A of a VISOR network: pretrained weights stay, what is new learns.

    python -m visor_jax.train --config=configs/stage_a.py:llava_ov_0p5b \
        --config.init_from=IMPORTED --config.data.path=DATA --workdir=DIR

All SELF layers are on. The paper trains on about 4 million samples here; its learning
rate is not known, and this is the one at which LLaVA-OneVision trains what is new in it
(its projector), not one that was tried at these sizes.
"""

import ml_collections

from configs import common

_SAMPLES = 4_000_000


def get_config(preset: str = "mini") -> ml_collections.ConfigDict:
    """Returns the configuration of a preset ("mini", "llava_ov_0p5b", ...)."""
    config = common.maximal(preset, _SAMPLES)
    config.label = "stage:a"
    config.optimizer.frozen = (r"^(?!.*/(cross_attention/|convolution_kernel$))",)
    config.optimizer.learning_rate = 1e-3
    config.optimizer.groups = {}
    return config
