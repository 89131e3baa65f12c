"""The sizes that exist, by name; `plan` picks the VISOR network or the dense one.

`llava_ov_0p5b` and `llava_ov_7b` have the exact shapes of the published LLaVA-OneVision
checkpoints. `mini` is the same network small enough to learn to read a page on two CPU
cores (the embedded benchmark), `mini_short` one that learns in minutes;
`mini_short_pictures` is that for small pictures.
"""

import dataclasses
from collections.abc import Callable

from visor_jax.layer_plan import LayerPlan
from visor_jax.models.config import (
    ENTRY,
    AdapterConfig,
    DecoderConfig,
    VisionConfig,
    VLMConfig,
)

_SIGLIP_SO400M = VisionConfig(
    width=1152,
    mlp_width=4304,
    num_layers=26,
    num_heads=16,
    image_size=384,
    patch_size=14,
)


# Kernels of the mini network start at 1 / sqrt(width): every layer has something to say
# from the first step, as there is nothing pretrained to preserve.
_MINI_INIT_STD = 64**-0.5


def mini(*, vocab_size: int = 64) -> VLMConfig:
    """Returns the embedded benchmark's network: 144 image tokens, 9 layers."""
    return VLMConfig(
        vision=VisionConfig(
            width=64,
            mlp_width=128,
            num_layers=1,
            num_heads=2,
            image_size=96,
            patch_size=8,
            init_std=_MINI_INIT_STD,
        ),
        decoder=DecoderConfig(
            vocab_size=vocab_size,
            width=64,
            mlp_width=176,
            num_heads=2,
            num_kv_heads=1,
            head_dim=32,
            rope_theta=1e4,
            # Embeddings as large as what stands in the image (see `Projector`), and
            # layers that add less than that: what a word says and where a patch lies
            # is then not drowned by untrained layers, and text learns to address a
            # place within hundreds of steps instead of thousands.
            embedding_init_std=0.5,
            tie_embeddings=False,
            init_std=0.08,
        ),
        adapter=AdapterConfig(num_kv_heads=2, init_std=_MINI_INIT_STD),
        projector_init_std=_MINI_INIT_STD,
        # A CROSS layer after every SELF layer: what nobody reads is worth nothing.
        plan=LayerPlan.build(9, cross=(0, 2, 4, 6), self_=(1, 3, 5)),
        image_newline=False,
        grid_embedding=True,
        reading_layers=(ENTRY, 1, 3),
        remat="gated",
    )


def mini_short() -> VLMConfig:
    """Returns `mini` with seven layers, which the demo trains in minutes."""
    plan = LayerPlan.build(7, cross=(0, 2, 4), self_=(1, 3))
    return mini().replace(plan=plan)


def mini_short_pictures() -> VLMConfig:
    """Returns `mini_short` in LLaVA-OneVision's form, for pictures of 64 pixels.

    105 image tokens: 49 of the whole picture, 56 of its one tile with its newlines.
    """
    config = mini_short()
    vision = dataclasses.replace(
        config.vision, image_size=64, patch_size=9, num_layers=2
    )
    decoder = dataclasses.replace(config.decoder, vocab_size=512, max_positions=1024)
    return config.replace(
        vision=vision,
        decoder=decoder,
        image_newline=True,
        reading_layers=(),
    )


def mini_tiles() -> VLMConfig:
    """Returns `mini` in LLaVA-OneVision's form, for tiles of 48 pixels.

    36 image tokens a crop: 192 of a page of 2 x 2 tiles, 378 of one of 3 x 3.
    """
    config = mini()
    return config.replace(
        vision=dataclasses.replace(config.vision, image_size=48),
        image_newline=True,
    )


def llava_ov_0p5b() -> VLMConfig:
    """Returns LLaVA-OneVision 0.5B with 8 CROSS and 7 SELF layers of 24."""
    return VLMConfig(
        vision=_SIGLIP_SO400M,
        decoder=DecoderConfig(
            vocab_size=152000,
            width=896,
            mlp_width=4864,
            num_heads=14,
            num_kv_heads=2,
            head_dim=64,
        ),
        adapter=AdapterConfig(num_kv_heads=2),
        plan=visor_plan(24),
        compute_dtype="bfloat16",
        remat="layer",
    )


def llava_ov_7b() -> VLMConfig:
    """Returns LLaVA-OneVision 7B with 9 CROSS and 8 SELF layers of 28."""
    return VLMConfig(
        vision=_SIGLIP_SO400M,
        decoder=DecoderConfig(
            vocab_size=152128,
            width=3584,
            mlp_width=18944,
            num_heads=28,
            num_kv_heads=4,
            head_dim=128,
            tie_embeddings=False,
        ),
        adapter=AdapterConfig(num_kv_heads=4),
        plan=visor_plan(28),
        compute_dtype="bfloat16",
        remat="layer",
    )


def visor_plan(num_layers: int) -> LayerPlan:
    """Returns the plan for a pretrained decoder: layers 0, 3, 6, ... are CROSS.

    Each but the last is followed, two layers on, by a SELF layer.

    Raises:
      ValueError: for fewer than six layers, which leave no SELF layer.
    """
    if num_layers < 6:
        raise ValueError(
            f"There is no VISOR plan for {num_layers} layers: name the CROSS and SELF "
            "layers."
        )
    cross = range(0, num_layers - num_layers % 3, 3)
    return LayerPlan.build(num_layers, cross=cross, self_=range(2, cross[-1], 3))


VARIANTS: dict[str, Callable[[], VLMConfig]] = {
    "mini": mini,
    "mini_short": mini_short,
    "mini_short_pictures": mini_short_pictures,
    "mini_tiles": mini_tiles,
    "llava_ov_0p5b": llava_ov_0p5b,
    "llava_ov_7b": llava_ov_7b,
}


def variant(name: str) -> VLMConfig:
    """Returns the named network. Raises ValueError with the names that exist."""
    if name not in VARIANTS:
        raise ValueError(f"Unknown variant {name!r}: choose one of {sorted(VARIANTS)}.")
    return VARIANTS[name]()


def dense(config: VLMConfig) -> VLMConfig:
    """Returns the unmodified LVLM of the same size: every layer SELF.

    Without what VISOR networks may have beside it: adapters, a convolution behind the
    projector.
    """
    return config.replace(
        plan=LayerPlan.dense(config.plan.num_layers), projector_convolution=None
    )


def with_convolution(config: VLMConfig, side: int | None) -> VLMConfig:
    """Returns the network with a convolution of this side behind its projector.

    side: 0 for none, None for what the network has.
    """
    if side is None:
        return config
    return config.replace(projector_convolution=side or None)
