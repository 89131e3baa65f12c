"""Whether a network reads the drawn pages of the embedded benchmark, or pictures."""

from collections.abc import Mapping
from typing import Any

from visor_jax.data.pages.forms import DIGITS
from visor_jax.data.pages.pool.drawing import IMAGE_SIZE
from visor_jax.data.settings import PAGES
from visor_jax.models.config import VLMConfig


def reads_pages(config: VLMConfig, metadata: Mapping[str, Any]) -> bool:
    """Returns whether a network was trained on pages, as its run recorded.

    Args:
      metadata: of its checkpoint.
    """
    kind = (metadata.get("data") or {}).get("kind")
    if kind is not None:
        return kind == PAGES
    # Runs have always said it. What they did not write is either an import, which has
    # the newline of LLaVA-OneVision, or was saved by hand from a network for pages.
    return not config.image_newline and config.vision.image_size == IMAGE_SIZE


def pages_read(metadata: Mapping[str, Any]) -> str:
    """Returns which pages a network for pages was trained on, see `pages.forms`.

    Args:
      metadata: of its checkpoint; those of digit pages do not say it.
    """
    found: Any = metadata
    for key in ("settings", "data", "pages"):
        found = found.get(key) or {}
    return found.get("kind", DIGITS)
