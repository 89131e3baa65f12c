"""The dense baseline: every layer sees the image, as in the unmodified LVLM.

python -m visor_jax.train --config=configs/dense.py
"""

import ml_collections

from configs import common


def get_config(preset: str = "mini") -> ml_collections.ConfigDict:
    """Returns the configuration of a preset ("mini", "llava_ov_0p5b", ...)."""
    config = common.without_convolution(common.base(preset))
    config.task = "universal"
    config.label = "dense"
    config.model.plan = "dense"
    del config.model.adapters, config.model.adapter_init
    config.budgets = ("all",)
    if common.draws_its_data(preset):
        # A dense step takes longer: about the time of the universal network's steps.
        config.loop.steps = config.loop.steps * 22 // 36
    else:
        del config.optimizer.groups["adapters"]
    config.budget_phases = ((1.0, {"all": 1.0}),)
    return config
