"""What policies are tried on, and the oracle that they are compared with."""

import numpy as np
import pytest

from tests.evals import small
from tests.evals.test_other_benchmark import Tints
from visor_jax.evals.checkpoints import EvaluatedCheckpoint, Replicate
from visor_jax.evals.networks import evaluate_networks
from visor_jax.evals.policy_choices import oracle_choice
from visor_jax.evals.report.rows import RunFacts
from visor_jax.policy.network import Policy, PolicyConfig


def test_the_oracle_takes_the_cheapest_right_budget():
    correct = np.array([[1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]], bool)
    costs = np.array([0.2, 0.5, 1.0, 0.5])
    assert oracle_choice(correct, costs).tolist() == [0, 2, 0, 1]


class NeverAsked(Tints):
    """Its questions may not be read."""

    def examples(self):
        raise AssertionError("a network runs")


def test_a_policy_without_packed_questions_is_refused_before_anything_runs():
    policy = Policy(config=PolicyConfig(num_budgets=2), params=None, costs=(0.4, 1.0))
    network = small.network({}, policy=policy)
    checkpoint = EvaluatedCheckpoint(
        replicate=Replicate(
            path="run", label="universal", seed=0, network="n", recipe={}, policy="p"
        ),
        network=network,
        budgets=network.budgets,
        facts=RunFacts(preset="mini", seed=0, train_steps=1, wall_clock_s=1.0),
    )
    with pytest.raises(ValueError, match="packed questions only so far, and tints"):
        evaluate_networks([checkpoint], NeverAsked(), costs=(0.0,))
