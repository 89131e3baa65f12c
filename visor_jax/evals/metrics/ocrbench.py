"""OCRBench (Liu et al. 2024): an answer is right if it holds a reference.

As lmms-eval 0.7.3 compares them: lower-cased, stripped, line breaks as blanks and
full-width letters folded; formulas (data set HME100k) as they are, but without blanks
and line breaks. That "10" holds "1" is part of the rule.
"""

from collections.abc import Iterable

FORMULAS = "HME100k"
# The full-width forms of "!" to "~", and the ideographic blank.
_FOLDED = {0xFF01 + n: 0x21 + n for n in range(94)} | {0x3000: 0x20}


def holds_reference(answer: str, references: Iterable[str], dataset: str = "") -> float:
    """Returns 1.0 if one of the references is a part of the answer, else 0.0.

    dataset: where the question is from; formulas are compared otherwise.
    """
    form = _formula if dataset == FORMULAS else _plain
    said = form(answer)
    return float(any(form(reference) in said for reference in references))


def _plain(text: str) -> str:
    return text.translate(_FOLDED).lower().strip().replace("\n", " ")


def _formula(text: str) -> str:
    return text.strip().replace("\n", "").replace(" ", "")
