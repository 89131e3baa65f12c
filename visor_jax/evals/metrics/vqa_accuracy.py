"""VQA accuracy: how many of ten annotators say what the answer says.

Antol et al. 2015, as lmms-eval computes it for TextVQA and VizWiz, and with
`parts_possessives=False` for VQAv2. Each annotator is left out in turn, and the mean
taken of

    min(1, agreeing among the others / 3):   0, .3, .6, .9, 1 for 0, 1, 2, 3, 4 of ten.

An annotator is left out by place. Where equal records are dropped together, as
lmms-eval does for VQAv2, records without numbers of their own give less
(`vqa_accuracy_without_equals`). The official rule for VQAv2 (`vqa_accuracy_official`)
makes words comparable only where the annotators differ.
"""

import math
from collections.abc import Sequence

from visor_jax.evals.metrics.vqa_words import (
    in_plain_words,
    one_line,
    processed,
    without_punctuation,
)


def vqa_accuracy(
    answer: str, references: Sequence[str], *, parts_possessives: bool = True
) -> float:
    """Returns the accuracy in 0..1, NaN without references.

    Args:
      references: of every annotator, equal ones too; fewer than ten are counted alike.
      parts_possessives: see `vqa_words.processed`.
    """

    def comparable(text: str) -> str:
        return processed(text, parts_possessives=parts_possessives)

    said = comparable(answer)
    return _leave_one_out([comparable(each) == said for each in references])


def vqa_accuracy_official(answer: str, references: Sequence[str]) -> float:
    """Returns the accuracy by VQAv2's own rule, in 0..1; NaN without references."""
    said, texts = one_line(answer), [one_line(each) for each in references]
    if len(set(texts)) > 1:
        said, *texts = (in_plain_words(without_punctuation(t)) for t in (said, *texts))
    return _leave_one_out([text == said for text in texts])


def vqa_accuracy_without_equals(answer: str, references: Sequence[str]) -> float:
    """Returns the accuracy if with each annotator all who say the same are left out.

    What lmms-eval gives for VQAv2 where records are texts alone.
    """
    if not references:
        return math.nan
    said, *texts = (
        processed(t, parts_possessives=False) for t in (answer, *references)
    )
    agreeing = texts.count(said)
    scores = [0.0 if text == said else min(1.0, agreeing / 3) for text in texts]
    return sum(scores) / len(scores)


def _leave_one_out(agrees: Sequence[bool]) -> float:
    count, total = len(agrees), sum(agrees)
    if count == 0:
        return math.nan
    # One division of whole numbers: tenths are what they are written as.
    with_one_less = total * min(3, total - 1) + (count - total) * min(3, total)
    return with_one_less / (3 * count)
