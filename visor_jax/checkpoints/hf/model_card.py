"""The README.md of an exported folder: what it is and how to open it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from visor_jax.checkpoints.hf.weights.weights_folder import VISOR, VISOR_CONFIG
from visor_jax.models.config import VLMConfig

_DENSE_USE = """```python
from transformers import LlavaOnevisionForConditionalGeneration

model = LlavaOnevisionForConditionalGeneration.from_pretrained("THIS_FOLDER")
```"""
_VISOR_USE = """```bash
python -m visor_jax.convert --from_hf=THIS_FOLDER --out=RUN
```"""


def model_card(
    config: VLMConfig, metadata: Mapping[str, Any], dtype: str, files: Collection[str]
) -> str:
    """Returns the model card as Markdown.

    Args:
      metadata: of the checkpoint.
      dtype: name of the dtype that the weights were written in.
      files: names of what was written beside the card and config.json.
    """
    text = _HEAD + f"\nWeights: {dtype}. {_origin(metadata)}\n"
    if VISOR_CONFIG not in files:
        return text + f"\n## Use\n\n{_DENSE_USE}\n"
    plan = config.plan
    kinds = plan.layers_by_kind
    rows = "".join(f"| {kind} | {_list(layers)} |\n" for kind, layers in kinds.items())
    return (
        f"{text}\n## VISOR\n\n{_DENSE if plan.is_dense else _VISOR}\n"
        f"{_ADDED if VISOR in files else _NOTHING_ADDED}\n\n"
        f"| kind | layers |\n|---|---|\n{rows}\n"
        f"Budgets it was trained for: {_list(metadata['budgets'])}.\n\n"
        f"## Use\n\n{_VISOR_USE}\n"
    )


def _origin(metadata: Mapping[str, Any]) -> str:
    source = (metadata.get("source") or {}).get("from_hf")
    began = f"Began as {source}." if source else "Trained from scratch."
    return f"{began} Trained here for {metadata['step']} steps."


def _list(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values) or "none"


_HEAD = """---
library_name: transformers
pipeline_tag: image-text-to-text
base_model_relation: finetune
---

# LLaVA-OneVision, exported by visor_jax
"""
_VISOR = """This is a VISOR network (arXiv 2603.23495). `model.safetensors` (or its
shards) and `config.json` are its dense part: transformers loads them as an ordinary
LLaVA-OneVision, **whose answers are not those of the VISOR network**.
`visor_config.json` says which layer does what."""
_DENSE = """This is a LLaVA-OneVision whose layers can be switched off: transformers
loads it with all of them on. `visor_config.json` says which layer does what."""
_ADDED = """`visor.safetensors` holds the parameters that are added, in Flax's layout
(kernels are (in, out))."""
_NOTHING_ADDED = "No parameters are added to those of LLaVA-OneVision."
