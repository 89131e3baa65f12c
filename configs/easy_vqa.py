"""easy-VQA: a public benchmark for a mini network on two CPU cores.

    python -m visor_jax.convert.easy_vqa --out=data/easy_vqa
    python -m visor_jax.train --config=configs/easy_vqa.py
    python -m visor_jax.train --config=configs/easy_vqa.py:dense
    python -m visor_jax.train --config=configs/policy.py:straight_through,easy_vqa \
        --config.init_from=runs/universal-easy_vqa-seed0

The network is `mini` in LLaVA-OneVision's form: pictures are read at their own 64
pixels, neither enlarged nor padded, whole and as one tile (105 image tokens). Its tower
is taught the words of the answers before; the rest begins with nothing.
"""

import ml_collections

from configs import common

# Of the preset, as `configs/policy.py` has it, too.
NAME = "easy_vqa"
PRESETS = ("universal", "dense")
_STEPS = 2400


def get_config(preset: str = "universal") -> ml_collections.ConfigDict:
    """Returns the configuration of the universal or the dense network."""
    if preset not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}: choose one of {list(PRESETS)}.")
    config = common.without_convolution(common.base("mini"))
    config.preset = NAME
    config.task = "universal"
    config.label = preset
    config.model.variant = "mini_short_pictures"
    config.data = _data()
    # Runs of one seed share the tower, by way of the data's cache.
    config.tower = {
        "steps": 4000,
        "batch_size": 32,
        "learning_rate": 2e-3,
    }
    # At three times this rate no answer to "is there a teal shape?" is learned.
    config.optimizer.learning_rate = 1e-3
    # At the rate of what begins with nothing it would forget what it has learned.
    config.optimizer.groups = {
        "vision_tower": common.group("^vision_tower/", 3e-4),
        "all_else": common.group("^(?!vision_tower/)"),
    }
    config.objective.reading_weight = 0.0
    config.loop.steps = _STEPS
    if preset == "dense":
        config.model = {
            "variant": "mini_short_pictures",
            "plan": "dense",
            "projector_convolution": ml_collections.config_dict.placeholder(int),
        }
        config.budgets = ("all",)
        # A dense step takes longer, reckoned by its FLOPs: about the same time in all.
        config.loop.steps = _STEPS * 22 // 36
        config.budget_phases = ((1.0, {"all": 1.0}),)
        return config
    config.budgets = ("every",)
    config.budget_phases = (
        (0.38, {"all": 1.0}),
        (1.0, {"all": 0.3, "none": 0.4, "any": 0.3}),
    )
    return config


def _data() -> dict:
    return {
        "kind": "conversations",
        # Rows: of a picture and all that is asked about it.
        "batch_size": 8,
        "path": "data/easy_vqa/train",
        # Lengths are measured once for all runs.
        "cache": "data/easy_vqa/cache",
        "processor": "data/easy_vqa/processor",
        "template": "qwen_1_5",
        "supervision": "assistant",
        "max_length": ml_collections.config_dict.placeholder(int),
        "too_long": "drop",
        "max_left_out": 0.0,
        "text_lengths": (256,),
        "max_images": 1,
        "pack": True,
        "any_crops": False,
        # 3,800 pictures are few, and no question tells left from right.
        "mirrors": True,
        "workers": 0,
        "threads": 1,
        "max_bad_records": 0,
    }
