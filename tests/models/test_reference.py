"""The network against its float64 NumPy reference."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from tests import tiny
from tests.models import numpy_reference
from tests.tiny import NETWORKS, Sample
from tests.tolerances import REFERENCE
from visor_jax.models.vision.siglip import VisionTower
from visor_jax.models.vlm import VLM, begin_batch


def assert_text_close(batch, logits, expected, tolerance):
    """Compares the logits of valid text tokens; padding may hold anything."""
    for row, result in enumerate(expected):
        actual = np.asarray(logits)[row][batch.text_mask[row]]
        np.testing.assert_allclose(actual, result.logits, **tolerance)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_at_every_budget(name):
    config = NETWORKS[name]
    params, batch = tiny.params_of(config), tiny.random_batch(config, seed=3)
    different = []
    for budget in tiny.every_budget(config):
        gates = budget.gates(config.plan)
        output = tiny.forward_traced(
            params, batch, np.array(gates, bool), config=config
        )
        expected = numpy_reference.forward(params, config, batch, gates)
        assert_text_close(batch, output.logits, expected, REFERENCE)
        different.append(expected[0].logits)
    # The budgets do differ: agreement above means something.
    for one, other in itertools.pairwise(different):
        assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize("name", ["visor", "reading"])
def test_image_stream_after_every_layer(name):
    config = NETWORKS[name]
    params, batch = tiny.params_of(config), tiny.random_batch(config)
    layers = tuple(range(config.plan.num_layers))

    def streams(model, batch):
        begun = begin_batch(model, batch)
        return model.run(begun, tiny.all_on(config), capture=layers)[1]

    captured = jax.jit(lambda p, b: VLM(config).apply(p, b, method=streams))(
        params, batch
    )
    expected = numpy_reference.forward(params, config, batch, tiny.all_on(config))
    last_reader = max(config.plan.cross_layers)
    for layer in range(last_reader + 1):
        for row, result in enumerate(expected):
            if not batch.image_mask[row].any():
                continue
            actual = np.asarray(captured[layer].hidden)[row][batch.image_mask[row]]
            np.testing.assert_allclose(actual, result.image_after[layer], **REFERENCE)


def test_tower_alone():
    config = tiny.VISOR
    params = tiny.params_of(config)["params"]["vision_tower"]
    crop = np.random.default_rng(0).normal(size=(14, 14, 3)).astype(np.float32)
    actual = VisionTower(config.vision, np.dtype("float32")).apply(
        {"params": params}, jax.numpy.asarray(crop)[None]
    )
    reference = numpy_reference._float64(params)
    expected = numpy_reference.tower(reference, config, crop.astype(np.float64))
    np.testing.assert_allclose(actual[0], expected, **REFERENCE)


def test_last_pixels_that_fill_no_patch_are_unused():
    config = NETWORKS["cross_only"]
    params, batch = tiny.params_of(config), tiny.random_batch(config)
    edge = config.vision.patches_per_side * config.vision.patch_size
    pixels = batch.pixels.copy()
    pixels[:, :, edge:] = 9.0
    pixels[:, :, :, edge:] = 9.0
    gates = tiny.all_on(config)
    before = tiny.forward_static(params, batch, config=config, gates=gates)
    changed = batch.replace(pixels=pixels)
    after = tiny.forward_static(params, changed, config=config, gates=gates)
    np.testing.assert_array_equal(before.logits, after.logits)


@pytest.mark.parametrize("tied", [True, False])
def test_dense_network_is_plain_llava_over_one_spliced_sequence(tied):
    config = dataclasses.replace(
        NETWORKS["dense"],
        decoder=dataclasses.replace(tiny.DECODER, tie_embeddings=tied),
    )
    params = tiny.params_of(config)
    sample = Sample(before=3, image=11, questions=(5,))
    batch = tiny.random_batch(config, [sample])
    gates = tiny.all_on(config)
    output = tiny.forward_static(params, batch, config=config, gates=gates)
    order = [("text", i) for i in range(3)]
    order += [("image", i) for i in range(11)]
    order += [("text", i) for i in range(3, 8)]
    spliced = numpy_reference.plain_llava(params, config, batch, 0, order)
    is_text = [kind == "text" for kind, _ in order]
    actual = np.asarray(output.logits)[0, : sample.text]
    np.testing.assert_allclose(actual, spliced[is_text], **REFERENCE)
