"""Maps of what CROSS layers look at, against the NumPy network."""

import jax
import numpy as np
import pytest

from tests import tiny
from tests.models import numpy_reference
from tests.models.decoder.every_second import EverySecond
from tests.tolerances import REFERENCE
from visor_jax.analysis.cross_attention_maps import (
    cross_attention_maps,
    first_crop_map,
)
from visor_jax.budget import Budget
from visor_jax.inference.loading.network import Network
from visor_jax.models.decoder.token_reducer import KEEP_ALL, PositionRule


def network_of(config, reducer=KEEP_ALL):
    return Network(
        config=config,
        params=tiny.params_of(config)["params"],
        budgets=tiny.every_budget(config),
        processor=None,
        metadata={},
        reducer=reducer,
    )


@pytest.mark.parametrize("name", ["visor", "cross_only"])
def test_maps_are_those_of_the_reference(name):
    config = tiny.NETWORKS[name]
    network = network_of(config)
    # The last valid text token of a row is the one whose order is largest.
    batch = tiny.random_batch(config, seed=5)
    smallest, largest = network.budgets.smallest, network.budgets.largest
    for budget in dict.fromkeys([smallest, largest]):
        found = cross_attention_maps(network, batch, budget)
        assert tuple(found) == config.plan.cross_layers
        expected = numpy_reference.forward(
            {"params": network.params}, config, batch, budget.gates(config.plan)
        )
        compared = 0
        for row, result in enumerate(expected):
            valid = batch.text_mask[row]
            last = np.flatnonzero(valid)[-1:]
            order = np.where(valid, batch.text_positions[row], -1)
            if not last.size or order[last] != order.max():
                continue  # Packed questions: the reference knows only the last column.
            for layer, weights in found.items():
                seen = weights[row][batch.image_mask[row]]
                np.testing.assert_allclose(seen, result.looked[layer], **REFERENCE)
                assert not weights[row][~batch.image_mask[row]].any()
                compared += seen.size
        assert compared


def test_budgets_change_what_is_looked_at():
    config = tiny.NETWORKS["visor"]
    network, batch = network_of(config), tiny.random_batch(config, seed=5)
    last = config.plan.cross_layers[-1]
    small, large = (
        cross_attention_maps(network, batch, budget)[last]
        for budget in (network.budgets.smallest, network.budgets.largest)
    )
    assert np.abs(small - large).max() > 1e-3


def test_a_network_that_drops_tokens_is_refused():
    config = tiny.NETWORKS["visor"]
    network = network_of(config, EverySecond(PositionRule.KEEP, 0))
    with pytest.raises(ValueError, match="load the network without it"):
        cross_attention_maps(
            network, tiny.random_batch(config), Budget.all(config.plan)
        )


def test_the_map_of_the_first_crop():
    batch = tiny.random_batch(tiny.NETWORKS["visor"])
    index = np.array([[0, 3, 4, 2, 1, 9, 0]])
    mask = np.array([[True, True, True, True, False, True, False]])
    batch = batch.replace(image_token_index=index, image_mask=mask)
    weights = np.array([0.5, 0.25, 0.125, 0.0625, 1, 1, 1], np.float32)
    # Patches 0, 3, 2 of a 2 x 2 grid; 4 and 9 are of other crops or newlines.
    found = first_crop_map(weights, batch, 0, patches_per_side=2)
    np.testing.assert_array_equal(found, [[0.5, 0], [0.0625, 0.25]])


def test_tokens_that_are_sums_of_patches_count_for_each():
    batch = tiny.random_batch(tiny.NETWORKS["visor"])
    index = np.array([[[0, 1, 0, 0], [3, 4, 2, 2], [9, 0, 0, 0], [1, 1, 1, 1]]])
    shares = np.array([[[0.5, 0.5, 0, 0], [0.25] * 4, [1, 0, 0, 0], [0.25] * 4]])
    mixed = batch.replace(
        image_token_index=index,
        image_token_weights=shares.astype(np.float32),
        image_mask=np.array([[True, True, True, False]]),
    )
    weights = np.array([0.5, 0.25, 0.125, 1], np.float32)
    # Patch 4 and 9 are of other crops or newlines, the last token is padding.
    found = first_crop_map(weights, mixed, 0, patches_per_side=2)
    np.testing.assert_array_equal(found, [[0.25, 0.25], [0.125, 0.0625]])


def test_padding_and_rows_without_an_image_are_zero():
    config = tiny.NETWORKS["visor"]
    batch = tiny.random_batch(config)
    batch = batch.replace(image_mask=np.zeros_like(batch.image_mask))
    found = cross_attention_maps(network_of(config), batch, Budget.all(config.plan))
    assert not any(np.any(x) for x in jax.tree.leaves(found))
