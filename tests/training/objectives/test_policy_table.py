"""Scored samples as training batches: each once per epoch, resumable."""

import numpy as np

from visor_jax.policy.scores import ScoredSamples
from visor_jax.training.objectives.policy_objective import PolicyObjective
from visor_jax.training.objectives.policy_table import sample_iterator, scored_table

COSTS = np.array([0.2, 0.5, 1.0])


def samples(count: int = 10) -> ScoredSamples:
    rng = np.random.default_rng(0)
    likelihood = -rng.random((count, 3)).astype(np.float32)
    return ScoredSamples(
        routing=np.arange(count * 2, dtype=np.float32).reshape(count, 2),
        image=rng.normal(size=(count, 2)).astype(np.float32),
        correct=likelihood > -0.5,
        log_likelihood=likelihood,
        rows=np.zeros(count, np.int32),
        slots=np.arange(count, dtype=np.int32),
    )


def test_losses_by_score():
    given = samples()
    for score, expected in (
        ("correct", ~given.correct),
        ("likelihood", 1 - np.exp(given.log_likelihood)),
        ("log_likelihood", -given.log_likelihood),
    ):
        table = scored_table(given, PolicyObjective(score=score), COSTS)
        np.testing.assert_allclose(table.losses, expected)


def test_labels_follow_the_score_and_the_share():
    given = samples()
    likelihood = np.exp(given.log_likelihood)
    table = scored_table(given, PolicyObjective(share=0.9), COSTS)
    enough = likelihood >= 0.9 * likelihood[:, 2:]
    np.testing.assert_array_equal(table.labels, enough.argmax(axis=1))
    by_right = scored_table(given, PolicyObjective(score="correct"), COSTS)
    enough = given.correct | ~given.correct[:, 2:]
    np.testing.assert_array_equal(by_right.labels, enough.argmax(axis=1))


def numbers(batch) -> list[int]:
    return (batch.routing[:, 0] / 2).astype(int).tolist()


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own():
    table = scored_table(samples(), PolicyObjective(), COSTS)
    batches = list(sample_iterator(table, batch_size=4, steps=5, seed=1))
    order = [n for batch in batches for n in numbers(batch)]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]
    other = sample_iterator(table, batch_size=4, steps=5, seed=2)
    assert [n for batch in other for n in numbers(batch)] != order


def test_the_iterator_goes_on_where_it_stood():
    table = scored_table(samples(), PolicyObjective(), COSTS)
    first = sample_iterator(table, batch_size=4, steps=5, seed=1)
    next(first), next(first)
    state, rest = first.get_state(), [numbers(batch) for batch in first]
    again = sample_iterator(table, batch_size=4, steps=5, seed=1)
    again.set_state(state)
    assert [numbers(batch) for batch in again] == rest
    assert len(rest) == 3
