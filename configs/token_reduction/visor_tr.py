"""VISOR-TR: the universal network with tokens packed along rows, 2 into 1.

    python -m visor_jax.train --config=configs/token_reduction/visor_tr.py \
        --config.init_from=runs/universal-mini-seed0
    python -m visor_jax.train --config=configs/token_reduction/visor_tr.py \
        --config.init_from=runs/universal-mini-seed0 \
        --config.model.reduce=visor_tr_packing:factor=4 \
        --config.label=stage:visor_tr_4x
"""

import ml_collections

from configs import common, universal


def get_config(preset: str = "mini") -> ml_collections.ConfigDict:
    """Returns the configuration of a preset ("mini", "llava_ov_0p5b", ...)."""
    config = universal.get_config(preset)
    config = common.reduced(config, "visor_tr", "visor_tr_packing:factor=2")
    return common.with_compressor(config)
