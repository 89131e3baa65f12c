"""M3: the dense network at nested scales of pooled tokens, one drawn for each step.

    python -m visor_jax.train --config=configs/token_reduction/m3.py \
        --config.init_from=runs/dense-mini-seed0
    python -m visor_jax.evaluate --checkpoint=runs/stage-m3-mini-seed0 \
        --reduce=m3:tokens=6

The scales are those of `--config.model.reduce=m3:scales=12+6+3`.
"""

import ml_collections

from configs import common, dense


def get_config(preset: str = "mini") -> ml_collections.ConfigDict:
    """Returns the configuration of a preset ("mini", "llava_ov_0p5b", ...)."""
    return common.reduced(dense.get_config(preset), "m3", "m3")
