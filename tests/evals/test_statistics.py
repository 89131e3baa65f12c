import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visor_jax.batch import Batch
from visor_jax.data.pages.batches import EvaluationBatch
from visor_jax.evals.pages.packed_answers import read_answers
from visor_jax.evals.statistics import (
    Z95,
    Answers,
    correct_table,
    group_score,
    spread,
    task_score,
    wilson_interval,
)


def _asked() -> EvaluationBatch:
    """Two rows of two questions; each answer is one word and the end (1)."""
    segments = np.array([[1, 1, 1, 2, 2, 2, 0]] * 2, np.int32)
    task_ids = np.full(segments.shape, -1, np.int32)
    task_ids[:, 1], task_ids[:, 4] = 0, 1
    targets = np.array([[9, 5, 1, 9, 6, 1, 0], [9, 7, 1, 9, 8, 1, 0]], np.int32)
    empty = np.zeros((2, 1))
    batch = Batch(
        pixels=empty,
        image_token_index=empty,
        image_positions=empty,
        image_mask=empty,
        tokens=targets,
        text_positions=segments,
        text_segments=segments,
        text_mask=segments > 0,
        targets=targets,
        loss_mask=np.isin(np.arange(7), (1, 2, 4, 5))[None].repeat(2, 0),
    )
    return EvaluationBatch(batch, task_ids, np.array([3, 8], np.int32))


def _predict(asked, *mistakes):
    """Returns one-hot logits' argmax: the targets, but for mistakes at (row, place)."""
    logits = np.eye(10)[asked.batch.targets]
    for row, place in mistakes:
        logits[row, place] = np.eye(10)[2]
    return logits.argmax(-1).astype(np.int32)


def test_all_places_of_an_answer_must_be_right():
    asked = _asked()
    # A wrong word; a wrong end; and a wrong place that is not scored.
    answers = read_answers(_predict(asked, (0, 1), (1, 5), (1, 0)), asked)
    assert answers.pages.tolist() == [3, 3, 8, 8]
    assert answers.tasks.tolist() == [0, 1, 0, 1]
    assert answers.correct.tolist() == [False, True, True, False]
    assert answers.predicted.tolist() == [2, 6, 7, 8]
    assert answers.targets.tolist() == [5, 6, 7, 8]


def test_rows_that_fill_up_do_not_count():
    asked = _asked()
    asked.task_ids[1] = -1
    asked.batch.loss_mask[1] = False
    assert len(read_answers(_predict(asked), asked)) == 2


def test_table_of_pages_and_tasks():
    answers = read_answers(_predict(_asked(), (0, 1)), _asked())
    np.testing.assert_array_equal(correct_table(answers, 2), [[0, 1], [1, 1]])
    with pytest.raises(ValueError, match="more than once"):
        correct_table(Answers.join([answers, answers]), 2)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe (1998), table I, method 3: the score interval.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_as_published(successes, n, low, high):
    interval = wilson_interval(successes / n, n)
    np.testing.assert_allclose(interval, (low, high), atol=5e-5)


@given(st.floats(0.01, 0.99), st.integers(2, 5000))
def test_wilson_ends_are_where_the_score_test_rejects(p, n):
    for end in wilson_interval(p, n):
        assert abs(p - end) == pytest.approx(Z95 * math.sqrt(end * (1 - end) / n))


def test_wilson_interval_names_bad_values():
    with pytest.raises(ValueError, match=r"proportion=1\.5"):
        wilson_interval(1.5, 3)


def test_group_is_the_mean_over_tasks_with_the_error_of_page_means():
    rng = np.random.default_rng(0)
    hard_page = rng.random((4000, 1)) < 0.5
    table = np.where(hard_page, rng.random((4000, 6)) < 0.5, 1.0)
    score = group_score(table)
    assert score.value == pytest.approx(table.mean())
    error = table.mean(axis=1).std(ddof=1) / math.sqrt(len(table))
    half = (score.high - score.low) / 2
    assert half == pytest.approx(Z95 * error, rel=0.02)
    # Answers about a page go together: pretending they do not would be too sure.
    low, high = wilson_interval(score.value, table.size)
    assert half > 1.2 * (high - low) / 2


def test_perfect_scores_keep_an_interval():
    score = group_score(np.ones((100, 4)))
    assert (score.value, score.high) == (1.0, 1.0)
    assert 0.95 < score.low < 1.0
    assert task_score(np.array([1.0, np.nan, 0.0])).value == 0.5


def test_the_interval_of_a_mean_holds_the_truth_as_often_as_it_says():
    """Pages and training seeds both vary; the truth is that of all of both."""
    rng = np.random.default_rng(0)
    kept = {"group": 0, "task": 0, "pages alone": 0}
    trials, pages, truth = 400, 200, 0.8
    for _ in range(trials):
        page = rng.normal(0, 0.1, (1, pages, 1))
        seed = rng.normal(0, 0.04, (3, 1, 1))
        tables = (rng.random((3, pages, 6)) < truth + page + seed).astype(float)
        score = group_score(*tables)
        kept["group"] += score.low <= truth <= score.high
        score = task_score(*tables[..., 0])
        kept["task"] += score.low <= truth <= score.high
        score = group_score(tables.mean(axis=0))
        kept["pages alone"] += score.low <= truth <= score.high
    share = {name: count / trials for name, count in kept.items()}
    # 95 % but for the approximate degrees of freedom (93 to 98 % in 3000 trials), and
    # two standard errors of 400 draws.
    assert share["group"] > 0.91
    assert share["task"] > 0.93
    # What this is for: three seeds are few, and pages do not tell how they differ.
    assert share["pages alone"] < 0.7


def test_with_many_pages_the_interval_is_students():
    tables = [np.full((10**6, 1), value) for value in (0.70, 0.74, 0.78)]
    score = group_score(*tables)
    half = 4.302653 * 0.04 / math.sqrt(3)
    assert score.value == pytest.approx(0.74)
    # Wilson's ends are where |mean - end| is the quantile times the error at the end.
    for end in (score.low, score.high):
        error = half * math.sqrt(end * (1 - end) / (0.74 * 0.26))
        assert abs(0.74 - end) == pytest.approx(error, rel=1e-4)


def test_equal_seeds_say_no_more_than_their_pages():
    table = np.random.default_rng(0).random((50, 4)).round()
    assert group_score(table, table).value == group_score(table).value
    one, two = group_score(table), group_score(table, table)
    assert two.high - two.low >= 0.99 * (one.high - one.low)
    assert task_score(np.ones(9), np.ones(9)) == task_score(np.ones(9))


def test_spread_is_that_of_a_sample():
    assert spread({"hard": [0.1, 0.3]}) == {
        "hard": {"std": pytest.approx(math.sqrt(0.02)), "values": [0.1, 0.3]}
    }
