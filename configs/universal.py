"""Universal training: one network for every budget.

    python -m visor_jax.train --config=configs/universal.py
    python -m visor_jax.train --config=configs/universal.py:llava_ov_0p5b \
        --config.data.path=DIR --workdir=gs://BUCKET/RUN

A workdir is a folder, or gs://BUCKET/FOLDER (pip install -e '.[gcs]').

Any value can be overridden: `--config.seed=1 --config.loop.steps=300`.
"""

import ml_collections

from configs import common


def get_config(preset: str = "mini") -> ml_collections.ConfigDict:
    """Returns the configuration of a preset ("mini", "llava_ov_0p5b", ...)."""
    config = common.base(preset)
    config.task = "universal"
    config.label = "universal"
    if preset == "tiles":
        config.budgets = ("every",)
        # With most of the layers off from the start, nobody learns to find a colour.
        # A digit lies in one crop, where the tower sees all of it: no SELF layer is
        # needed to read it, and without them ten crops cost what one does.
        config.budget_phases = (
            (0.46, {"all": 1.0}),
            (1.0, {"all": 0.3, "none": 0.5, "any": 0.2}),
        )
    elif common.draws_its_data(preset):
        config.budgets = ("every",)
        # Until the largest network can read, there is nothing to share with the others.
        config.budget_phases = (
            (0.38, {"all": 1.0}),
            (1.0, {"all": 0.3, "none": 0.4, "any": 0.3}),
        )
    else:
        config.budgets = ("none", "all")
        config.budget_phases = ((1.0, {"any": 1.0}),)
    return config
