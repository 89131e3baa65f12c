"""How sure a policy is, from logits whose meaning is known."""

import numpy as np

from visor_jax.policy.adequacy import Adequacy

COSTS = np.array([0.2, 1.0, 0.5])


def test_of_labels_it_is_the_chance_that_no_dearer_budget_is_needed():
    chances = np.array([[0.5, 0.1, 0.4], [0.2, 0.7, 0.1], [0.2, 0.7, 0.1]])
    found = Adequacy()(np.log(chances) + 3, np.array([0, 2, 1]), COSTS)
    np.testing.assert_allclose(found, [0.5, 0.3, 1.0])


def test_of_losses_it_is_what_is_not_lost_against_the_dearest():
    losses = np.array([[0.5, 0.1, 0.2], [0.5, 0.1, 0.2], [0.0, 0.1, 0.1]])
    logits = -(losses + 0.3 * COSTS) / 0.05 + 7
    adequacy = Adequacy(cost_weight=0.3, entropy_weight=0.05)
    found = adequacy(logits, np.array([0, 2, 0]), COSTS)
    # Better than the dearest is no more than enough.
    np.testing.assert_allclose(found, [0.6, 0.9, 1.0])
