"""What may be averaged: seeds of one thing, each network once."""

import dataclasses

import pytest

from visor_jax.evals.checkpoints import Replicate, check_replicates

RECIPE = {
    "train_steps": 100,
    "policy": {"objective": {"kind": "labels", "cost_weight": 0.05}},
}


def network(seed: int, **changes) -> Replicate:
    described = {"path": f"u{seed}", "label": "universal", "seed": seed}
    described |= {"network": f"n{seed}", "recipe": {"train_steps": 9}}
    return Replicate(**{**described, **changes})


def policy(seed: int, **changes) -> Replicate:
    own = {"path": f"p{seed}", "policy": "policy:a", "recipe": RECIPE}
    return network(seed, **{**own, **changes})


def test_seeds_of_one_thing_may_be_averaged():
    check_replicates([network(0), network(1), policy(0), policy(1)])
    check_replicates([policy(0), policy(1)])
    # Two policies of one network, trained with different seeds.
    check_replicates([network(0), policy(0), policy(1, network="n0")])
    # Other labels stand beside them.
    dense = network(0, label="dense", path="d", network="other", recipe={})
    check_replicates([network(0), policy(0), policy(0, policy="policy:b"), dense])


@pytest.mark.parametrize(
    ("replicates", "message"),
    [
        (
            [
                policy(0),
                policy(
                    1,
                    recipe={
                        **RECIPE,
                        "policy": {"objective": {"kind": "labels", "cost_weight": 1}},
                    },
                ),
            ],
            r"p0 and p1 are both labelled 'policy:a' .*cost_weight \(0.05 and 1\)",
        ),
        (
            [network(0), network(1, recipe={"train_steps": 8, "settings": 1})],
            r"differ in settings \(not said and 1\), train_steps \(9 and 8\)",
        ),
        (
            [network(0), network(0, path="again")],
            "u0 and again, both 'universal', are the same",
        ),
        ([policy(0), policy(0, path="again")], "p0 and again, both 'policy:a', are"),
        (
            [network(0), policy(0), policy(1), policy(0, policy="policy:b")],
            "no 'policy:b' for the network of p1",
        ),
        (
            [network(0), network(1), network(2), policy(1)],
            "means over 1 networks, those of fixed budgets over 3.*network of u0, u2",
        ),
    ],
)
def test_what_is_no_seed_is_refused(replicates, message):
    with pytest.raises(ValueError, match=message):
        check_replicates(replicates)


def test_a_checkpoint_is_shown_by_its_policy():
    assert network(0).shown_as == "universal"
    assert policy(0).shown_as == "policy:a"
    assert dataclasses.replace(policy(0), policy=None).shown_as == "universal"
