"""Names of the whole LLaVA-OneVision network: both towers and what joins them."""

from visor_jax.checkpoints.hf.keys.key_map import LINEAR, KeyRule
from visor_jax.checkpoints.hf.keys.qwen import QWEN
from visor_jax.checkpoints.hf.keys.siglip import SIGLIP

LLAVA_ONEVISION: tuple[KeyRule, ...] = (
    *SIGLIP,
    KeyRule(
        "multi_modal_projector.{name}.weight",
        "multi_modal_projector/{name}/kernel",
        LINEAR,
    ),
    KeyRule("multi_modal_projector.{name}.bias", "multi_modal_projector/{name}/bias"),
    KeyRule("image_newline", "image_newline"),
    *QWEN,
)
