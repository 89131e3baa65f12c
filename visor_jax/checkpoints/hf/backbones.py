"""The families of Hugging Face's networks whose folders are read and written here.

What they differ in when they compute are numbers of `VLMConfig`. What their folders
differ in is here, and asked wherever a folder is read or written.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from visor_jax.checkpoints.hf import read_config
from visor_jax.checkpoints.hf.keys.key_map import KeyRule
from visor_jax.checkpoints.hf.keys.llava_onevision import LLAVA_ONEVISION
from visor_jax.checkpoints.hf.processor_files import read_processor
from visor_jax.checkpoints.hf.write_config import to_config_json
from visor_jax.data.prompts.processor import Processor
from visor_jax.models.config import VLMConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """One family of networks.

    model_type: in its config.json. read_config: from that object to the dense network,
    its head tied as the object says. write_config: back, from (network, object that it
    was imported with or None, name of the weights' dtype). keys: names of the
    parameters. processor: of text and pictures, with the arguments of `read_processor`.
    """

    model_type: str
    read_config: Callable[[Mapping[str, Any]], VLMConfig]
    write_config: Callable[[VLMConfig, Mapping[str, Any] | None, str], dict[str, Any]]
    keys: tuple[KeyRule, ...]
    processor: Callable[..., Processor]


_LLAVA_ONEVISION = Backbone(
    model_type=read_config.MODEL_TYPE,
    read_config=read_config.to_vlm_config,
    write_config=to_config_json,
    keys=LLAVA_ONEVISION,
    processor=read_processor,
)
BACKBONES: dict[str, Backbone] = {
    _LLAVA_ONEVISION.model_type: _LLAVA_ONEVISION,
}
# Architectures of other code, with what says the same as transformers would.
_TRANSLATIONS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    read_config.ORIGINAL_ARCHITECTURE: read_config.from_original,
}


def as_transformers(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns config.json as transformers writes it for one of the backbones.

    That is the object itself, or a translation of the original code's.

    Raises:
      ValueError: for another model type, or values that have no translation.
    """
    model_type = fields.get("model_type")
    if model_type in BACKBONES:
        return dict(fields)
    architectures = list(fields.get("architectures") or ())
    for name in architectures:
        if name in _TRANSLATIONS:
            return _TRANSLATIONS[name](fields)
    raise ValueError(
        f"This is a model of another kind: {model_type=}, {architectures=}. Give one "
        f"of the model types {sorted(BACKBONES)}, or of the original code's "
        f"architectures {sorted(_TRANSLATIONS)}."
    )


def backbone_of(source: Mapping[str, Any] | None) -> Backbone:
    """Returns the backbone of a network.

    Args:
      source: config.json that the network was imported with; None for a network that
        began here, whose parts are those of LLaVA-OneVision.

    Raises:
      ValueError: for another model type.
    """
    if source is None:
        return _LLAVA_ONEVISION
    return BACKBONES[as_transformers(source)["model_type"]]
