"""Yes and no, as POPE and MME read them.

POPE (Li et al. 2023), as lmms-eval reads it: the whole answer, lower-cased, is "yes" or
"no"; anything else is wrong and counts in no cell of the table. By its own rule
(`pope_reading_official`) every answer without a "no" says yes. lmms-eval's "yes ratio"
is one of the references, which says nothing of the network: here it is of answers.

MME (Fu et al. 2023): "yes", then "no", is looked for in the first four characters:

    "not sure"  no      "know"  no      "Unknown"  other      "The answer is yes"  other
"""

import dataclasses
from collections.abc import Iterable

YES, NO, OTHER = "yes", "no", "other"


def pope_reading(answer: str) -> str:
    """Returns "yes", "no", or "other" for an answer that is neither."""
    said = answer.strip().lower()
    return said if said in (YES, NO) else OTHER


def pope_reading_official(answer: str) -> str:
    """Returns "no" if a word of the first sentence is No, not or no, else "yes"."""
    sentence = answer.strip().partition(".")[0].replace(",", "")
    return NO if {"No", "not", "no"} & set(sentence.split(" ")) else YES


def mme_reading(answer: str) -> str:
    """Returns "yes", "no" or "other"."""
    said = answer.strip().lower().replace(".", "")
    if len(said) == 1:
        return {"y": YES, "n": NO}.get(said, OTHER)
    beginning = said[:4]
    return next((word for word in (YES, NO) if word in beginning), OTHER)


@dataclasses.dataclass(frozen=True, kw_only=True)
class YesNoCounts:
    """How many of n answers were right, and right or wrong about yes.

    said_yes: answers that are read as yes.
    """

    n: int
    right: int
    true_positive: int
    false_positive: int
    false_negative: int
    said_yes: int

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> "YesNoCounts":
        """Returns the counts of (reading, reference) pairs."""
        pairs = list(pairs)
        return cls(
            n=len(pairs),
            right=sum(said == right for said, right in pairs),
            true_positive=pairs.count((YES, YES)),
            false_positive=pairs.count((YES, NO)),
            false_negative=pairs.count((NO, YES)),
            said_yes=sum(said == YES for said, _ in pairs),
        )

    @property
    def accuracy(self) -> float:
        return _share(self.right, self.n)

    @property
    def precision(self) -> float:
        return _share(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        return _share(self.true_positive, self.true_positive + self.false_negative)

    @property
    def f1(self) -> float:
        wrong = self.false_positive + self.false_negative
        return _share(2 * self.true_positive, 2 * self.true_positive + wrong)

    @property
    def yes_ratio(self) -> float:
        return _share(self.said_yes, self.n)


def _share(part: int, whole: int) -> float:
    """Returns their ratio; 0 where it is not defined."""
    return part / whole if whole else 0.0
