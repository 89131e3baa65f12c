"""A network trained for one budget only: the control for universal training.

    python -m visor_jax.train --config=configs/dedicated.py:none
    python -m visor_jax.train --config=configs/dedicated.py:sa2:1,5

The argument is the budget, as everywhere else; the preset is `mini`.
"""

import ml_collections

from configs import common

# Steps that take about the time of the universal network's steps, on a CPU.
_STEPS = {"none": 4600, "all": 3050}


def get_config(budget: str = "none") -> ml_collections.ConfigDict:
    """Returns the configuration of a network that only ever runs at `budget`."""
    config = common.base("mini")
    config.task = "universal"
    config.label = f"dedicated:{budget}"
    config.budgets = (budget,)
    config.loop.steps = _STEPS.get(budget, config.loop.steps)
    config.budget_phases = ((1.0, {budget: 1.0}),)
    return config
