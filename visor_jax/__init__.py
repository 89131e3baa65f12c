"""visor_jax: VISOR (VISion On Request) in JAX and Flax."""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import visor_jax.inference.loading.load

__version__ = "0.1.0"

# transformers serves as a tokenizer here; that it finds no PyTorch is no news.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def load(
    path_or_id: str | os.PathLike, **options: Any
) -> "visor_jax.inference.loading.load.VisorModel":
    """Returns the network of a checkpoint, ours or Hugging Face's.

    See `visor_jax.inference.loading.load`. Nothing heavy is imported before the first
    call.
    """
    from visor_jax.inference.loading import load

    return load.load(path_or_id, **options)


_LAZY = {
    "AnswerOptions": "visor_jax.data.prompts.answer_options",
    "Request": "visor_jax.data.prompts.request",
    "Sampling": "visor_jax.data.prompts.sampling",
}


def __getattr__(name: str) -> Any:
    """Returns what `visor_jax.load`'s network takes, imported when it is asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'visor_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
