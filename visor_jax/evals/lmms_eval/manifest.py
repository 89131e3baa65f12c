"""What lmms-eval reads of this project when it starts: entry point `lmms_eval.models`.

It names classes by text and imports them when they are asked for: here is neither jax
nor a network.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

_MODULE = "visor_jax.evals.lmms_eval.model"


def manifest() -> "ModelManifest":
    """Returns the model `visor_jax`: in the chat form, and in the simple one."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="visor_jax",
        chat_class_path=f"{_MODULE}.VisorChat",
        simple_class_path=f"{_MODULE}.VisorSimple",
    )
