"""What the training configurations share: one base per preset.

`mini` is the embedded benchmark: it draws its own data and trains on two CPU cores;
`demo` is a smaller one in about four minutes, for those who watch; `tiles` has pages of
several crops.
`llava_ov_0p5b` and `llava_ov_7b` are the published shapes and need converted data.
"""

import ml_collections

_OWN = ("mini", "demo", "tiles")
PRESETS = (*_OWN, "llava_ov_0p5b", "llava_ov_7b")

# What minutes are enough for has a larger share of the questions than in `mini`.
_DEMO_PHASES = (
    (
        0.5,
        {
            **{"colour": 1, "ring": 3, "half": 1, "square": 3},
            **{"read": 6, "mark": 1, "rmark": 1, "max": 1, "argmax": 1, "bar": 2},
        },
    ),
    (
        1.0,
        {
            **{"colour": 0.5, "ring": 1.5, "half": 0.5, "square": 1.5},
            **{"read": 6, "mark": 3, "rmark": 2, "max": 3, "argmax": 3, "bar": 2},
        },
    ),
)


def base(preset: str) -> ml_collections.ConfigDict:
    """Returns what universal, dense and dedicated training of a preset have in common.

    Raises:
      ValueError: for an unknown preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}: choose one of {list(PRESETS)}.")
    if not draws_its_data(preset):
        return llava_ov(preset)
    return {"mini": mini, "demo": demo, "tiles": tiles}[preset]()


def draws_its_data(preset: str) -> bool:
    """Returns whether a preset trains on pages that it draws itself."""
    return preset in _OWN


def maximal(preset: str, samples: int) -> ml_collections.ConfigDict:
    """Returns what both stages before universal training have in common.

    They begin with a checkpoint and train the full budget.

    Args:
      samples: of the run at the published sizes.
    """
    config = base(preset)
    config.task = "universal"
    config.budgets = ("all",)
    config.budget_phases = ((1.0, {"all": 1.0}),)
    config.init_from_needed = True
    config.optimizer.convolution_begins = 0.0
    if draws_its_data(preset):
        config.tower.steps = 0
    else:
        config.loop.steps = samples // config.data.batch_size
        # 3 % of the run, as in LLaVA-OneVision.
        config.optimizer.warmup_steps = round(0.03 * config.loop.steps)
    return config


def reduced(
    config: ml_collections.ConfigDict, label: str, reduce: str
) -> ml_collections.ConfigDict:
    """Returns a run that trains a checkpoint's network with fewer image tokens.

    Args:
      config: of the network with all of them. reduce: a method that reads no question,
        by name and settings (`python -m visor_jax.show.reducers`).
    """
    config.label = f"stage:{label}"
    config.model.reduce = reduce
    # The reading loss has a label for every image token.
    config.model.reading_layers = ()
    config.objective.reading_weight = 0.0
    config.init_from_needed = True
    config.optimizer.convolution_begins = 0.0
    if draws_its_data(config.preset):
        config.tower.steps = 0
    return config


def with_compressor(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the run with a group for a reduction's own parameters, if it has groups.

    They learn as fast as the projector.
    """
    if config.optimizer.groups:
        config.optimizer.groups["compressor"] = group("^token_compressor/")
    return config


def mini() -> ml_collections.ConfigDict:
    """Returns the embedded benchmark: a page of digits, 144 image tokens, 9 layers."""
    config = ml_collections.ConfigDict()
    config.preset = "mini"
    config.seed = 0
    config.model = {
        "variant": "mini",
        "plan": "visor",
        **_adapters("paper"),
        # Without it text reads patches that have not met: 0 for none.
        "projector_convolution": 3,
        **_computed(),
    }
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
        "groups": {},
        "accumulate": 1,
        # When the easy tasks have been learned.
        "convolution_begins": 0.3,
        # "muon": orthogonal updates for the matrices of layers.
        "matrices": "adam",
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


def without_convolution(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the configuration of a network without one behind its projector."""
    del config.model.projector_convolution
    config.model.projector_convolution = ml_collections.config_dict.placeholder(int)
    config.optimizer.convolution_begins = 0.0
    return config


def demo() -> ml_collections.ConfigDict:
    """Returns a smaller `mini` with smaller steps: four minutes on two CPU cores."""
    config = without_convolution(mini())
    config.preset = "demo"
    config.model.variant = "mini_short"
    config.data.batch_size = 8
    config.data.pages.pool_size = 3000
    config.data.pages.phases = _DEMO_PHASES
    # Many small steps: what is slow to learn comes after their number, not their size.
    config.tower.update(steps=2000, batch_size=8)
    config.optimizer.warmup_steps = 50
    config.loop.update(steps=800, log_every=10, checkpoint_every=100)
    config.evaluation_pages = 128
    return config


def tiles() -> ml_collections.ConfigDict:
    """Returns pages of tiles: a base view and a crop each, in half an hour of one core.

    Digits are seen in the tiles alone, so crops matter.
    """
    config = mini()
    config.preset = "tiles"
    config.model.variant = "mini_tiles"
    config.data.batch_size = 16
    glance = {"place": 1, "where": 1, "shape": 1, "tiles": 0.1}
    config.data.pages = {
        "kind": "tiles",
        # Steps look at some crops of their pages: the network is to be right at any.
        "any_crops": True,
        # How to find a colour is learned where every step shows it, then how to read.
        "crop_phases": ((0.14, "base"), (0.46, "few"), (0.84, "all"), (1.0, "any")),
        "pool_size": 6000,
        "questions_per_page": 24,
        "text_length": 128,
        "phases": (
            (0.14, glance),
            (0.46, {**glance, "read": 3, "largest": 1, "mark": 0.5, "pair": 0.5}),
            (1.0, {**glance, "read": 2, "largest": 2, "mark": 1, "pair": 2}),
        ),
    }
    # Nothing coarse is hidden from the tower: it trains with the rest from the start.
    config.tower.steps = 0
    # Its rate has risen when steps begin to show digits.
    config.optimizer.convolution_begins = 0.12
    # In fewer steps than AdamW, of which one seed did not learn to find.
    config.optimizer.matrices = "muon"
    config.loop.update(steps=2200)
    return config


def llava_ov(variant: str) -> ml_collections.ConfigDict:
    """Returns the published sizes: LLaVA-OneVision's public recipe, bfloat16, FSDP."""
    config = ml_collections.ConfigDict()
    config.preset = variant
    config.seed = 0
    config.model = {
        "variant": variant,
        "plan": "visor",
        **_adapters("decoder"),
        "projector_convolution": ml_collections.config_dict.placeholder(int),
        **_computed(),
    }
    config.data = _conversations()
    config.tower = ml_collections.config_dict.placeholder(dict)
    config.objective = {
        "reading_weight": 0.0,
        "sandwich": False,
        "distill_weight": 0.0,
    }
    config.optimizer = _published_rates()
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


def _adapters(shape: str) -> dict:
    """Returns the adapters' shape, and what those start as that `init_from` lacks."""
    return {"adapters": shape, "adapter_init": "random"}


def _computed() -> dict:
    """Returns how a step is computed, which a run may change whenever it goes on.

    remat: None for the network's own. See `visor_jax.models.config.VLMConfig`.
    """
    remat = ml_collections.config_dict.placeholder(str)
    return {"remat": remat, "attention": "auto", "scan_layers": "auto"}


def group(pattern: str, learning_rate: float | None = None) -> dict:
    """Returns parameters that share a rate; None for the run's own."""
    rate = ml_collections.config_dict.placeholder(float)
    return {"pattern": pattern, "learning_rate": learning_rate or rate}


def _conversations() -> dict:
    """Returns what to train on: converted data, as LLaVA-OneVision trains."""
    return {
        "kind": "conversations",
        "batch_size": 128,
        # A folder that visor_jax.convert.data wrote, or a mixture file that lists
        # several.
        "path": ml_collections.config_dict.placeholder(str),
        "cache": ml_collections.config_dict.placeholder(str),
        # Of tokenizer and images; by default those of `init_from`.
        "processor": ml_collections.config_dict.placeholder(str),
        "template": "qwen_1_5",
        # What LLaVA-OneVision trains, and how; "assistant" for the answers alone.
        "supervision": "llava_next",
        "max_length": 32768,
        "too_long": "drop",
        # Share of the samples that may be left out before the run refuses to begin.
        "max_left_out": 0.5,
        "text_lengths": (256, 1024, 4096),
        "max_images": 8,
        "pack": True,
        # Whether steps look at drawn crops of their images, for looks on request.
        "any_crops": False,
        # Whether half of the images are mirrored: where nothing asks for left or right.
        "mirrors": False,
        # Worker processes that read; 0 for threads. Changes nothing of what is read.
        "workers": 4,
        "threads": 2,
        "max_bad_records": 0,
    }


def _published_rates() -> dict:
    """Returns LLaVA-OneVision's optimiser: a tower that learns five times as slowly."""
    return {
        "learning_rate": 1e-5,
        "weight_decay": 0.0,
        "skip_norm": ml_collections.config_dict.placeholder(float),
        "warmup_steps": 750,
        "decay": "cosine",
        "frozen": ("vision_tower/post_layernorm",),
        # Every parameter that trains is in exactly one. Those without a rate of their
        # own have the one above.
        "groups": {
            "vision_tower": group("^vision_tower/", 2e-6),
            "projector": group("^(multi_modal_projector/|image_newline$)"),
            # With the head, where embeddings are not tied.
            "language_model": group(
                "^(language_model/(?!.*/cross_attention/)|lm_head/)"
            ),
            "adapters": group("/cross_attention/"),
        },
        # Parts of a batch that pass through the network one after another.
        "accumulate": 1,
        # The tower has little to forget at its rate.
        "convolution_begins": 0.0,
        "matrices": "adam",
    }
