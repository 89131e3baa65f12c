"""Relaxed accuracy of ChartQA: numbers may be five per cent off, words may not.

Masry et al. 2022, after Methani et al. 2020, as lmms-eval computes it. "5%" is .05;
other numbers are what Python reads, so that a comma makes a text of one. A reference of
nought allows no tolerance: then texts are compared.

    answer     reference   score
    "95"       "100"       1
    "0.3"      "30%"       1
    "30"       "30%"       0
    "0.0"      "0"         0    as texts
    "1,000"    "1000"      0    as texts
    "2021"     "2020"      1    a year, too, is a number (`is_other_year`)
"""

TOLERANCE = 0.05
_YEARS = range(1900, 2101)


def relaxed_accuracy(answer: str, reference: str) -> float:
    """Returns 1.0 if the answer is near enough to the reference, else 0.0.

    Blanks around the answer do not count.
    """
    answer = answer.strip()
    said, right = _number(answer), _number(reference)
    if said is not None and right is not None and right != 0:
        # Divided, as it is published: a product rounds otherwise at the edge.
        return float(abs(said - right) / abs(right) <= TOLERANCE)
    return float(answer.lower() == reference.lower())


def is_other_year(answer: str, reference: str) -> bool:
    """Returns whether the answer counts as right and is another year (1900 to 2100)."""
    said, right = _number(answer.strip()), _number(reference)
    both = {said, right}
    return (
        said != right
        and both <= set(_YEARS)
        and bool(relaxed_accuracy(answer, reference))
    )


def _number(text: str) -> float | None:
    try:
        if text.endswith("%"):
            return float(text.rstrip("%")) / 100
        return float(text)
    except ValueError:
        return None
