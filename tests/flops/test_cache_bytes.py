"""The formula against the caches that the programs make, on shapes alone."""

import jax
import pytest

from tests import own_flags
from tests.flops import abstract_model
from tests.flops.test_program import ODD_CONFIGS
from visor_jax.budget import Budget, BudgetSet
from visor_jax.flops import __main__ as command
from visor_jax.flops.cache_bytes import cache_bytes
from visor_jax.models.variants import dense, llava_ov_0p5b, mini

LENGTHS = {"text_tokens": 11, "image_tokens": 37, "crops": 1, "batch": 2}
CONFIGS = {"mini": mini(), "dense mini": dense(mini()), **ODD_CONFIGS}


def bytes_in(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def measured(config, budget, spare, lengths):
    inputs = abstract_model.abstract_batch(config, **lengths)
    params = abstract_model.abstract_params(config, inputs)
    gates = budget.gates(config.plan)
    return abstract_model.abstract_cache(config, gates, params, inputs, spare)


@pytest.mark.parametrize("name", CONFIGS)
def test_caches_are_as_large_as_the_formula_says(name):
    config, spare = CONFIGS[name], 6
    budgets = [Budget.all(config.plan)]
    if not config.plan.is_dense:
        budgets = list(BudgetSet.parse(["every"], config.plan))
    for budget in budgets:
        layers = measured(config, budget, spare, LENGTHS).layers
        found = cache_bytes(
            config, budget, text_slots=11 + spare, image_tokens=37, rows=2
        )
        assert found.total == bytes_in(layers), budget.name
        assert found.text == bytes_in([layer.text for layer in layers])


def test_the_published_size_at_the_largest_image():
    config = llava_ov_0p5b()
    lengths = {"text_tokens": 100, "image_tokens": 7353, "crops": 1, "batch": 1}
    for count in (0, 3, 7):
        budget = Budget(config.plan.self_layers[:count])
        found = cache_bytes(config, budget, text_slots=100, image_tokens=7353)
        assert found.total == bytes_in(measured(config, budget, 0, lengths).layers)
        # 2 heads in 8 adapters and in SELF layers: 2 x 64 x 2 bytes each.
        assert found.image == 7353 * 256 * (8 * 2 + count * 2)


def test_the_command_prints_all_budgets_and_dense(capsys):
    own_flags.call(command, "--variant=mini", "--image_tokens=144", "--cache")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-5:]] == [
        *("sa0", "sa1:3", "sa2:1,5", "sa3:1,3,5"),
        "dense",
    ]
    assert lines[-1].split()[-1] == "1.00"


def test_impossible_lengths_and_options(capsys):
    with pytest.raises(ValueError, match="image_tokens=-1"):
        cache_bytes(mini(), Budget.none(), text_slots=1, image_tokens=-1)
    with pytest.raises(SystemExit):
        own_flags.call(command, "--cache", "--json")
    assert "--json" in capsys.readouterr().err
