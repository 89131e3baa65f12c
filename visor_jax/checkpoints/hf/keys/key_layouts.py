"""One spelling for the keys of every kind of LLaVA-OneVision file.

The same network has been published and saved under five spellings (transformers 4.45,
4.52-4.57 and 5, in memory and on disk, and the original LLaVA-NeXT code):

    published  vision_tower.vision_model.X        language_model.model.X
    saved, v5  vision_tower.X                     language_model.model.X
    memory     model.vision_tower.X               model.language_model.X    lm_head
    4.52-4.57  model.vision_tower.vision_model.X  model.language_model.X    lm_head
    original   model.vision_tower.vision_tower.vision_model.X
               model.mm_projector.0               model.layers.0.X          lm_head
    canonical  vision_tower.X                     language_model.X          lm_head

Ordered rules lead from any of them to the canonical one, from which the maps of the
towers go on. Files are written in the published spelling, which every version reads.
"""

import re
from collections.abc import Iterable

_TO_CANONICAL: tuple[tuple[str, str], ...] = (
    (r"^model\.", ""),
    # The original code wraps the tower once more.
    (r"^vision_tower\.vision_tower\.", "vision_tower."),
    (r"^vision_tower\.vision_model\.", "vision_tower."),
    (r"^mm_projector\.0\.", "multi_modal_projector.linear_1."),
    (r"^mm_projector\.2\.", "multi_modal_projector.linear_2."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.model\.", "language_model."),
    (r"^(layers|embed_tokens|norm)\.", r"language_model.\1."),
)
_TO_PUBLISHED: tuple[tuple[str, str], ...] = (
    (r"^vision_tower\.", "vision_tower.vision_model."),
    (r"^language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)
# Constants that old versions stored beside the parameters; the network computes them.
_COMPUTED = re.compile(r"\.(position_ids|rotary_emb\.inv_freq)$")


def is_computed(key: str) -> bool:
    """Returns whether a stored key is a constant that the network computes itself."""
    return _COMPUTED.search(key) is not None


def canonical(key: str) -> str:
    """Returns the canonical spelling of a stored key; unknown keys come through."""
    for pattern, replacement in _TO_CANONICAL:
        key = re.sub(pattern, replacement, key)
    return key


def published(key: str) -> str:
    """Returns the spelling of the published files for a canonical key."""
    for pattern, replacement in _TO_PUBLISHED:
        if re.match(pattern, key):
            return re.sub(pattern, replacement, key)
    return key


def canonical_keys(stored: Iterable[str]) -> dict[str, str]:
    """Returns {canonical key: key as stored}, computed constants left out.

    Raises:
      ValueError: if two stored keys mean the same parameter; all are listed.
    """
    owners: dict[str, list[str]] = {}
    for key in stored:
        if not is_computed(key):
            owners.setdefault(canonical(key), []).append(key)
    doubled = sorted(" and ".join(keys) for keys in owners.values() if len(keys) > 1)
    if doubled:
        raise ValueError(
            "The files hold parameters twice under different names: "
            f"{'; '.join(doubled)}. Which one counts cannot be told."
        )
    return {key: keys[0] for key, keys in owners.items()}
