"""visor_jax: VISOR (VISion On Request) in JAX and Flax."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import visor_jax.library

__version__ = "0.1.0"

# transformers serves as a tokenizer here; that it finds no PyTorch is no news.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def load(path: str | os.PathLike) -> "visor_jax.library.VisorModel":
    """Returns the network of the newest readable checkpoint under `path`.

    See `visor_jax.library.load`. Nothing heavy is imported before the first call.
    """
    from visor_jax import library

    return library.load(path)
