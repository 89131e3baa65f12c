"""LDPv2: the dense network with a quarter of the tokens, pooled and convolved.

    python -m visor_jax.train --config=configs/token_reduction/ldpv2.py \
        --config.init_from=runs/dense-mini-seed0
"""

import ml_collections

from configs import common, dense


def get_config(preset: str = "mini") -> ml_collections.ConfigDict:
    """Returns the configuration of a preset ("mini", "llava_ov_0p5b", ...)."""
    config = common.reduced(dense.get_config(preset), "ldpv2", "ldpv2")
    return common.with_compressor(config)
