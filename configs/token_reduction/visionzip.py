"""VisionZip with a tuned projector: all else stays as the dense network has it.

    python -m visor_jax.train --config=configs/token_reduction/visionzip.py \
        --config.init_from=runs/dense-mini-seed0

A tenth of the dense run's steps, as the authors take a tenth of its data.
"""

import ml_collections

from configs import common, dense


def get_config(preset: str = "mini") -> ml_collections.ConfigDict:
    """Returns the configuration of a preset ("mini", "llava_ov_0p5b", ...)."""
    config = dense.get_config(preset)
    config = common.reduced(config, "visionzip", "visionzip:keep=0.25")
    config.loop.steps //= 10
    config.optimizer.warmup_steps //= 10
    config.optimizer.frozen = (r"^(?!multi_modal_projector/)",)
    config.optimizer.groups = {}
    return config
