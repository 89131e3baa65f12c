"""How a Hugging Face folder may be imported; light enough for a command's flags."""

from collections.abc import Mapping, Sequence

# A kind of plan, its layers by kind, or None for the folder's own.
PlanChoice = str | Mapping[str, Sequence[int]] | None

PLANS = ("dense", "visor")
DTYPES = ("stored", "float32", "bfloat16")
