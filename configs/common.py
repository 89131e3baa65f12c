"""What the training configurations share: one base per preset.

`mini` is the embedded benchmark: it draws its own data and trains on two CPU cores.
`llava_ov_0p5b` and `llava_ov_7b` are the published shapes and need prepared data.
"""

import ml_collections

PRESETS = ("mini", "llava_ov_0p5b", "llava_ov_7b")


def base(preset: str) -> ml_collections.ConfigDict:
    """Returns what universal, dense and dedicated training of a preset have in common.

    Raises:
      ValueError: for an unknown preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}: choose one of {list(PRESETS)}.")
    return mini() if preset == "mini" else llava_ov(preset)


def mini() -> ml_collections.ConfigDict:
    """Returns the embedded benchmark: a page of digits, 144 image tokens, 9 layers."""
    config = ml_collections.ConfigDict()
    config.preset = "mini"
    config.seed = 0
    config.model = {"variant": "mini", "plan": "visor"}
    config.data = {
        "kind": "pages",
        "batch_size": 16,
        "cache": ml_collections.config_dict.placeholder(str),
        "pages": {
            "pool_size": 16000,
            "questions_per_page": 20,
            "text_length": 112,
        },
    }
    config.tower = {"steps": 1000, "batch_size": 32, "learning_rate": 1e-2}
    config.objective = {
        "reading_weight": 1.0,
        "sandwich": False,
        "distill_weight": 0.0,
    }
    config.optimizer = {
        "learning_rate": 3e-3,
        "b2": 0.98,
        "weight_decay": 0.01,
        "skip_norm": ml_collections.config_dict.placeholder(float),
        "warmup_steps": 100,
        "constant_until": 0.5,
        "decay": "linear",
        # The norm that SigLIP checkpoints carry and LLaVA does not use.
        "frozen": ("vision_tower/post_layernorm",),
    }
    config.loop = {
        "steps": 3600,
        "log_every": 50,
        "checkpoint_every": 500,
        "max_skipped_steps": 20,
    }
    config.platform = "any"
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.evaluation_pages = 1024
    # A checkpoint to begin with: `--config.init_from=DIR`.
    config.init_from = ml_collections.config_dict.placeholder(str)
    return config


def llava_ov(variant: str) -> ml_collections.ConfigDict:
    """Returns the published sizes: LLaVA-OneVision's public recipe, bfloat16, FSDP."""
    config = ml_collections.ConfigDict()
    config.preset = variant
    config.seed = 0
    config.model = {"variant": variant, "plan": "visor"}
    config.data = {
        "kind": "prepared",
        "batch_size": 128,
        "path": ml_collections.config_dict.placeholder(str),
    }
    config.tower = ml_collections.config_dict.placeholder(dict)
    config.objective = {
        "reading_weight": 0.0,
        "sandwich": False,
        "distill_weight": 0.0,
    }
    config.optimizer = {
        "learning_rate": 1e-5,
        "weight_decay": 0.0,
        "skip_norm": ml_collections.config_dict.placeholder(float),
        "warmup_steps": 750,
        "decay": "cosine",
        "frozen": ("vision_tower/post_layernorm",),
    }
    config.loop = {
        "steps": 25000,
        "log_every": 20,
        "checkpoint_every": 1000,
        "max_skipped_steps": 20,
    }
    # Years on a CPU: `--config.platform=cpu` if that is what is meant.
    config.platform = "accelerator"
    config.mesh = {"data": 1, "fsdp": -1, "tensor": 1}
    config.evaluation_pages = 1024
    # A checkpoint to begin with: `--config.init_from=DIR`.
    config.init_from = ml_collections.config_dict.placeholder(str)
    return config
