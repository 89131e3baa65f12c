"""ANLS of DocVQA and InfoVQA: how near an answer's letters come to a reference's.

Average normalised Levenshtein similarity (Biten et al. 2019, Mathew et al. 2021), as
`anls` of lmms-eval computes it. With NL = edit distance / length of the longer text,

    score = 1 - least NL over the references, and 0 where that is below a half.

The texts are compared stripped, lower-cased and with single blanks; their lengths are
those *before* that, in capitals ("ß" has two). A tie of a half counts here; the paper
has it score nothing.

    answer        reference        score
    "abcd"        "abce"           .75
    "abcd"        "abxy"           .5
    "abcd"        "axyz"           0
    "$ 1,200"     "$1,200"         .8571
    "five"        "5"              0     numbers are not read
"""

from collections.abc import Iterable

THRESHOLD = 0.5


def anls(answer: str, references: Iterable[str]) -> float:
    """Returns the similarity to the nearest reference, in 0..1; 0 without references.

    Blanks around the answer do not count.
    """
    answer = answer.strip()
    nearest = min((_distance(answer, each) for each in references), default=1.0)
    similarity = 1 - nearest
    return similarity if similarity >= THRESHOLD else 0.0


def levenshtein(one: str, other: str) -> int:
    """Returns how many insertions, deletions and changes of a character lie between."""
    if len(one) < len(other):
        one, other = other, one
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        before, row = row, [i]
        for j, right in enumerate(other, 1):
            changed = before[j - 1] + (left != right)
            row.append(min(changed, before[j] + 1, row[j - 1] + 1))
    return row[-1]


def _distance(answer: str, reference: str) -> float:
    """Returns the normalised distance; 0 for two empty texts."""
    longest = max(len(answer.upper()), len(reference.upper()))
    if longest == 0:
        return 0.0
    return levenshtein(_normalised(answer), _normalised(reference)) / longest


def _normalised(text: str) -> str:
    return " ".join(text.lower().split())
