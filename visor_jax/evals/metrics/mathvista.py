"""MathVista (Lu et al. 2024) by rules alone: `accuracy_rules`.

lmms-eval has GPT cut the result out of whatever is no exact text or number. Rules
cannot be compared with that, hence their name: of options the extractor's letter, else
the nearest text; of numbers the last one in the answer.

    "B" of [3, 5]     for 5      1
    "3.7", integer    for 3      1    cut off, not rounded
    "1.2", two places for 1.20   0    compared as texts
"""

import math
import re
from collections.abc import Sequence

from visor_jax.evals.metrics.anls import levenshtein
from visor_jax.evals.metrics.option_letter import extracted_letter

CHOICE, INTEGER, FLOAT, LIST = "choice", "integer", "float", "list"
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_LIST = re.compile(r"\[[^\[\]]*\]")


def result_of(
    answer: str, kind: str, choices: Sequence[str] = (), precision: int | None = None
) -> str | None:
    """Returns the result as a text, None where there is none.

    Args:
      kind: "choice", "integer", "float" or "list".
      precision: decimal places of a float.
    """
    answer = answer.strip()
    if kind == CHOICE:
        return _choice(answer, choices)
    if kind == LIST:
        found = _LIST.findall(answer)
        return found[-1] if found else answer or None
    number = _last_number(answer)
    if number is None:
        return None
    if kind == INTEGER:
        return str(int(number))
    return str(round(number, precision))


def accuracy_rules(
    answer: str,
    reference: str,
    kind: str,
    choices: Sequence[str] = (),
    precision: int | None = None,
) -> float:
    """Returns 1.0 if the result of the answer is the reference, as texts; else 0.0."""
    result = result_of(answer, kind, choices, precision)
    return float(result is not None and result.strip() == reference.strip())


def _choice(answer: str, choices: Sequence[str]) -> str | None:
    if not answer or not choices:
        return None
    if answer in choices:
        return answer
    letters = [chr(ord("A") + n) for n in range(len(choices))]
    letter = extracted_letter(answer, letters)
    if letter is not None:
        return choices[letters.index(letter)]
    return min(choices, key=lambda choice: levenshtein(answer, choice))


def _last_number(answer: str) -> float | None:
    found = _NUMBER.findall(answer)
    number = float(found[-1]) if found else math.nan
    return number if math.isfinite(number) else None
