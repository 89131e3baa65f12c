"""How a Hugging Face folder may be imported; light enough for a command's flags."""

from collections.abc import Mapping, Sequence

# A kind of plan, its layers by kind, or None for the folder's own.
PlanChoice = str | Mapping[str, Sequence[int]] | None

# "read": the dense network's layers and weights, and budgets in which text reads the
# image in the deeper half, three quarters or all of them: they need no training.
PLANS = ("dense", "visor", "read")
DTYPES = ("stored", "float32", "bfloat16")
