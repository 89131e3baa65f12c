import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visor_jax.evals.statistics import (
    Z95,
    ScoreTable,
    group_score,
    scores_by_name,
    spread,
    task_score,
    wilson_interval,
)


def once(table) -> ScoreTable:
    """Returns (clusters, tasks) scores of one example each; NaN was not asked."""
    table = np.atleast_2d(table)
    asked = ~np.isnan(table)
    return ScoreTable(sums=np.where(asked, table, 0.0), counts=asked.astype(int))


def column(values) -> ScoreTable:
    """Returns the scores of one task."""
    return once(np.asarray(values, float)[:, None])


def test_a_table_adds_up_what_is_asked_about_a_cluster():
    table = ScoreTable.of(
        np.array([1.0, 0.5, np.nan, 0.25, 1.0]),
        np.array([0, 0, 0, 1, 1]),
        np.array([0, 0, 1, 1, 1]),
    )
    np.testing.assert_array_equal(table.sums, [[1.5, 0], [0, 1.25]])
    # A score of NaN does not count.
    np.testing.assert_array_equal(table.counts, [[2, 0], [0, 2]])
    np.testing.assert_array_equal(table.accuracies, [0.75, 0.625])
    np.testing.assert_array_equal(table.of_tasks([1]).sums, [[0], [1.25]])


def test_scores_have_the_names_of_groups_and_tasks():
    table = once([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    groups = {"both": ("c", "b"), "one": ("a",)}
    found = scores_by_name([table], ("a", "b", "c"), groups)
    assert {name: score.value for name, score in found.items()} == {
        **{"both": 0.5, "one": 1.0},
        **{"a": 1.0, "b": 0.5, "c": 0.5},
    }


def _unequal_clusters(rng):
    """Returns (scores, clusters) of 40 images with one to five questions each."""
    sizes = rng.integers(1, 6, 40)
    clusters = np.repeat(np.arange(40), sizes)
    easy = rng.normal(0, 0.2, 40)[clusters]
    return np.clip(0.5 + easy + rng.normal(0, 0.1, len(clusters)), 0, 1), clusters


def test_several_questions_about_a_cluster_vary_together():
    """Against drawing whole clusters again and again."""
    rng = np.random.default_rng(0)
    scores, clusters = _unequal_clusters(rng)
    table = ScoreTable.of(scores, clusters, np.zeros(len(scores), int))
    means = []
    for _ in range(2000):
        drawn = rng.integers(0, 40, 40)
        picked = np.concatenate([scores[clusters == c] for c in drawn])
        means.append(picked.mean())
    found = task_score(table)
    assert found.value == pytest.approx(scores.mean())
    assert (found.high - found.low) / 2 == pytest.approx(Z95 * np.std(means), rel=0.1)
    # Taken for questions that have nothing to do with each other they seem too sure.
    apart = ScoreTable.of(scores, np.arange(len(scores)), np.zeros(len(scores), int))
    narrow = group_score(apart)
    assert found.high - found.low > 1.3 * (narrow.high - narrow.low)


def test_a_question_repeated_in_its_cluster_makes_nothing_surer():
    rng = np.random.default_rng(1)
    scores, clusters = _unequal_clusters(rng)
    tasks = np.zeros(len(scores), int)
    one = group_score(ScoreTable.of(scores, clusters, tasks))
    twice = ScoreTable.of(*(np.repeat(x, 2) for x in (scores, clusters, tasks)))
    two = group_score(twice)
    assert (two.low, two.high) == pytest.approx((one.low, one.high))


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
    score = group_score(once(table))
    assert score.value == pytest.approx(table.mean())
    error = table.mean(axis=1).std(ddof=1) / math.sqrt(len(table))
    half = (score.high - score.low) / 2
    assert half == pytest.approx(Z95 * error, rel=0.02)
    # Answers about a page go together: pretending they do not would be too sure.
    low, high = wilson_interval(score.value, table.size)
    assert half > 1.2 * (high - low) / 2


def test_perfect_scores_keep_an_interval():
    score = group_score(once(np.ones((100, 4))))
    assert (score.value, score.high) == (1.0, 1.0)
    assert 0.95 < score.low < 1.0
    assert task_score(column([1.0, np.nan, 0.0])).value == 0.5


def test_the_interval_of_a_mean_holds_the_truth_as_often_as_it_says():
    """Pages and training seeds both vary; the truth is that of all of both."""
    rng = np.random.default_rng(0)
    kept = {"group": 0, "task": 0, "pages alone": 0}
    trials, pages, truth = 400, 200, 0.8
    for _ in range(trials):
        page = rng.normal(0, 0.1, (1, pages, 1))
        seed = rng.normal(0, 0.04, (3, 1, 1))
        tables = (rng.random((3, pages, 6)) < truth + page + seed).astype(float)
        score = group_score(*map(once, tables))
        kept["group"] += score.low <= truth <= score.high
        score = task_score(*map(column, tables[..., 0]))
        kept["task"] += score.low <= truth <= score.high
        score = group_score(once(tables.mean(axis=0)))
        kept["pages alone"] += score.low <= truth <= score.high
    share = {name: count / trials for name, count in kept.items()}
    # 95 % but for the approximate degrees of freedom (93 to 98 % in 3000 trials), and
    # two standard errors of 400 draws.
    assert share["group"] > 0.91
    assert share["task"] > 0.93
    # What this is for: three seeds are few, and pages do not tell how they differ.
    assert share["pages alone"] < 0.7


def test_with_many_pages_the_interval_is_students():
    tables = [once(np.full((10**6, 1), value)) for value in (0.70, 0.74, 0.78)]
    score = group_score(*tables)
    half = 4.302653 * 0.04 / math.sqrt(3)
    assert score.value == pytest.approx(0.74)
    # Wilson's ends are where |mean - end| is the quantile times the error at the end.
    for end in (score.low, score.high):
        error = half * math.sqrt(end * (1 - end) / (0.74 * 0.26))
        assert abs(0.74 - end) == pytest.approx(error, rel=1e-4)


def test_equal_seeds_say_no_more_than_their_pages():
    table = once(np.random.default_rng(0).random((50, 4)).round())
    assert group_score(table, table).value == group_score(table).value
    one, two = group_score(table), group_score(table, table)
    assert two.high - two.low >= 0.99 * (one.high - one.low)
    assert task_score(column(np.ones(9)), column(np.ones(9))) == task_score(
        column(np.ones(9))
    )


def test_spread_is_that_of_a_sample():
    assert spread({"hard": [0.1, 0.3]}) == {
        "hard": {"std": pytest.approx(math.sqrt(0.02)), "values": [0.1, 0.3]}
    }
