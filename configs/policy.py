"""A policy for a trained universal network: which budget a sample needs.

    python -m visor_jax.train --config=configs/policy.py \
        --config.init_from=runs/universal-mini-seed0
    python -m visor_jax.train --config=configs/policy.py:pseudo_labels \
        --config.init_from=runs/universal-mini-seed0
    python -m visor_jax.train \
        --config=configs/policy.py:straight_through,llava_ov_0p5b \
        --config.init_from=UNIVERSAL --config.data.path=DATA --workdir=DIR

The argument is the objective, or objective and preset. Objectives: straight_through,
pseudo_labels, expected_loss or straight_through_blended (see
`visor_jax/training/objectives/policy_objective.py`). The pages of `mini` are those of
the handwriting that neither the network nor the test has seen, `easy_vqa` has the
questions about its last training pictures; for the other presets take conversations
that the network has not been trained on. There is none for `tiles`.
"""

import ml_collections

from configs import common, easy_vqa

# Reading is what is hard to predict; on easy questions all budgets agree.
_TASK_WEIGHTS = {
    **{"colour": 1, "ring": 1, "half": 1, "square": 1},
    **{"read": 2, "mark": 2, "rmark": 2, "max": 2, "argmax": 2, "bar": 2},
}


def get_config(argument: str = "straight_through") -> ml_collections.ConfigDict:
    """Returns the configuration for "objective" or "objective,preset"."""
    objective, _, preset = argument.partition(",")
    if preset == "tiles":
        raise ValueError(
            "There is no policy for the preset 'tiles': its pages are not those that a "
            "policy is trained and reported on. Take 'mini' or 'demo'."
        )
    own = preset == easy_vqa.NAME
    config = easy_vqa.get_config() if own else common.base(preset or "mini")
    config.task = "policy"
    config.label = f"policy:{objective}"
    # Both are those of the network; budgets may be some of its own.
    for key in ("model", "tower", "budget_phases"):
        if key in config:
            del config[key]
    config.budgets = ml_collections.config_dict.placeholder(tuple)
    config.policy = {
        "hidden_widths": (128,),
        "routing_token": True,
        "image_features": True,
    }
    config.objective = {
        "kind": objective,
        "score": "likelihood",
        "cost_weight": 0.05,
        "entropy_weight": 0.02,
        "temperature": (1.0, 0.2),
        "share": 0.99,
        "reference": "full",
    }
    # Samples of a step, from the table of those that were scored.
    config.data.batch_size = 512
    # The rows that are scored at every budget: once for all policies of a network,
    # whatever their seed and objective; by default in the cache of its workdir.
    config.scores = {
        "batches": 32,
        "batch_size": 64,
        "seed": 0,
        "cache": ml_collections.config_dict.placeholder(str),
    }
    config.optimizer = {
        "learning_rate": 3e-3,
        "weight_decay": 0.01,
        "warmup_steps": 20,
        "decay": "cosine",
        "skip_norm": ml_collections.config_dict.placeholder(float),
    }
    config.loop.update(steps=1500)
    if objective == "straight_through_blended":
        # Every step runs the network, both branches of every SELF layer.
        config.data.batch_size = 32
        config.loop.steps = 400
    _fit_preset(config)
    return config


def _fit_preset(config: ml_collections.ConfigDict) -> None:
    """Sets what a preset's data ask for."""
    if config.preset == easy_vqa.NAME:
        # All 200 pictures that the network has not seen, a row each.
        config.data.path = "data/easy_vqa/dev"
        config.scores.update(batches=4, batch_size=50)
        return
    if not common.draws_its_data(config.preset):
        # A budget is chosen before the first answer.
        config.data.supervision = "assistant"
        config.scores.batches = 1000
        return
    config.data.pages = {
        "pool_size": 3000,
        "questions_per_page": 20,
        "text_length": 112,
        "phases": ((1.0, _TASK_WEIGHTS),),
    }
    if config.preset == "demo":
        config.data.pages.pool_size = 1000
        config.scores.batches = 8
        config.loop.update(steps=400, log_every=10)
