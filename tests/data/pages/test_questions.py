import re

import numpy as np
import pytest

from visor_jax.data.pages.packing import answer_table
from visor_jax.data.pages.pool.facts import PageFacts
from visor_jax.data.pages.questions import (
    EASY,
    HARD,
    QUESTION_TASK,
    QUESTIONS,
    TASK_NAMES,
    TASKS,
    question_probabilities,
)
from visor_jax.data.pages.words import TOKENS


def oracle(text: str, facts: PageFacts) -> str:
    """Returns the answer by reading the question, as a person would."""
    numbers = [int(n) - 1 for n in re.findall(r"\d", text)]
    row, column = facts.mark
    if text.startswith("digit row"):
        return str(facts.digits[numbers[0]][numbers[1]])
    if text.startswith("column of"):
        digits = list(facts.digits[numbers[0]])
        return str(digits.index(max(digits)) + 1)
    if text.startswith("largest"):
        return str(max(facts.digits[numbers[0]]))
    if text.startswith("bar"):
        return str(facts.bars["ABCD".index(text[-1])])
    return {
        "marked digit": str(facts.digits[row][column]),
        "digit right of mark": str(facts.digits[row][column + 1]),
        "page colour": facts.colour,
        "ring": "yes" if facts.ring else "no",
        "dark half": facts.dark_half,
        "orange square": "yes" if facts.squares else "no",
    }[text]


def test_answers_agree_with_the_oracle(pool):
    table = answer_table(pool.facts)
    for page in range(len(pool)):
        facts = pool.page_facts(page)
        for i, question in enumerate(QUESTIONS):
            expected = oracle(question.text, facts)
            assert question.answers(pool.facts[page]) == [expected]
            assert TOKENS[table[page, i]] == expected


def test_tasks_and_their_questions():
    assert (*EASY, *HARD) == TASK_NAMES
    assert EASY == ("colour", "ring", "half", "square")
    assert HARD == ("read", "mark", "rmark", "argmax", "max", "bar")
    assert np.bincount(QUESTION_TASK).tolist() == [1, 1, 1, 1, 12, 1, 1, 3, 3, 4]
    assert len({question.text for question in QUESTIONS}) == len(QUESTIONS)
    for task in TASKS.values():
        assert {q.num_tokens for q in task.questions} == {task.num_tokens}


def test_answering_the_most_frequent_word_gains_little(many_facts):
    table = answer_table(many_facts)
    majority = np.array([np.bincount(column).max() for column in table.T]) / len(table)
    per_task = np.bincount(QUESTION_TASK, majority) / np.bincount(QUESTION_TASK)
    assert abs(per_task[: len(EASY)].mean() - 0.36) < 0.02
    assert abs(per_task[len(EASY) :].mean() - 0.20) < 0.02


def test_question_probabilities_share_the_weight_of_a_task():
    chances = question_probabilities({"ring": 1, "read": 3})
    assert chances.sum() == pytest.approx(1)
    read = TASK_NAMES.index("read") == QUESTION_TASK
    np.testing.assert_allclose(chances[read], 0.75 / 12)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"sum": 1, "count": 1}, "'count', 'sum'"),
        ({"ring": 0}, "not all 0"),
        ({"ring": 2, "mark": -1}, "not negative"),
        ({"ring": float("nan")}, "finite"),
    ],
)
def test_wrong_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        question_probabilities(weights)
