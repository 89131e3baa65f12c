"""Layers that leave the image alone or do not see it, against a NumPy forward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.analysis import numpy_layers, small_study
from tests.tolerances import REFERENCE
from visor_jax.analysis.ablation import next_log_probs, run_ablated
from visor_jax.analysis.figures.contribution import contributions_of, divergence
from visor_jax.analysis.study import refining, seeing
from visor_jax.models.vlm import VLM

NAMES = ("dense", "visor", "read")
# What a layer does once it is frozen, or text does not see the image in it.
FROZEN = {"self": "read"}
UNSEEN = {"self": numpy_layers.ALONE, "cross": "text", "read": "text"}


def changed(ways, layers, to):
    return [to.get(w, w) if i in layers else w for i, w in enumerate(ways)]


def log_probs(study, batch, ways):
    network = study.network
    return np.array(
        [
            numpy_layers.run(network.params, network.config, batch, row, ways).log_probs
            for row in range(len(small_study.SAMPLES))
        ]
    )


@pytest.mark.parametrize("name", NAMES)
def test_contributions_are_those_of_the_reference(name):
    study = small_study.study_of(tiny.NETWORKS[name])
    prompts, batch = small_study.prompts(study)
    ways = list(study.ways)
    full = log_probs(study, batch, ways)
    np.testing.assert_allclose(next_log_probs(study, prompts), full, **REFERENCE)
    found = contributions_of(study, prompts)
    for layer, way in enumerate(ways):
        frozen = log_probs(study, batch, changed(ways, [layer], FROZEN))
        unseen = log_probs(study, batch, changed(ways, [layer], UNSEEN))
        for key, values in (
            ("frozen", np.sum(np.exp(frozen) * (frozen - full), axis=-1)),
            ("frozen_full_changed", np.sum(np.exp(full) * (full - frozen), axis=-1)),
            ("unseen", np.sum(np.exp(unseen) * (unseen - full), axis=-1)),
        ):
            np.testing.assert_allclose(found[key][:, layer], values, **REFERENCE)
        # Of a prompt with an image something moves, of one without nothing.
        assert bool(found["unseen"][0, layer] > 1e-4) is (way != "text")
        assert not found["unseen"][2, layer] > 1e-6
    moved = found["frozen"][0] > 1e-4
    assert list(np.flatnonzero(moved)) == refining(study.ways)


def test_several_layers_at_once_and_both_ways():
    study = small_study.study_of(tiny.NETWORKS["visor"])
    prompts, batch = small_study.prompts(study)
    ways = list(study.ways)
    layers = [1, 2, 3, 4]
    both = ["text" if i in layers else way for i, way in enumerate(ways)]
    found = next_log_probs(study, prompts, frozen=layers, unseen=layers)
    np.testing.assert_allclose(found, log_probs(study, batch, both), **REFERENCE)
    assert seeing(study.ways) == [0, 1, 2, 3, 4]
    smallest = study.network.budgets.smallest
    less = small_study.study_of(tiny.NETWORKS["visor"], budget=smallest)
    assert less.ways == ("cross", "off", "cross", "off", "cross", "text")
    assert refining(less.ways) == []


def test_a_layer_that_puts_nothing_out_contributes_nothing():
    config = tiny.NETWORKS["dense"]
    params = jax.tree.map(lambda x: x, tiny.params_of(config)["params"])
    layer = params["language_model"]["layers_1"]
    for part, name in (("self_attn", "o_proj"), ("mlp", "down_proj")):
        kernel = layer[part][name]["kernel"]
        layer[part][name] = {"kernel": jnp.zeros_like(kernel)}
    study = small_study.study_of(config, params)
    prompts, _ = small_study.prompts(study)
    found = contributions_of(study, prompts)
    assert np.abs(found["frozen"][:, 1]).max() < 1e-9
    assert np.abs(found["unseen"][:, 1]).max() < 1e-9
    assert found["frozen"][0, 0] > 1e-4


def test_frozen_images_are_the_same_bits():
    config = tiny.NETWORKS["dense"]
    study = small_study.study_of(config)
    prompts, _ = small_study.prompts(study)

    @jax.jit
    def images(begin_with, frozen):
        def run(module):
            begun = module.begin(*begin_with)
            unseen = jnp.zeros_like(frozen)
            done = run_ablated(
                module, begun, study.gates, frozen, unseen, keep_images=True
            )
            return [begun.image.hidden, *done[1]]

        return VLM(config).apply({"params": study.network.params}, method=run)

    begin_with = prompts.tokens, prompts.text, prompts.image_tokens, prompts.image
    frozen = jnp.array([False, True, False])
    found = [np.asarray(x) for x in images(begin_with, frozen)]
    assert np.array_equal(found[1], found[2])
    for before, after in ((0, 1), (2, 3)):
        assert np.abs(found[before] - found[after])[0].max() > 1e-3


def test_the_divergence_is_that_of_the_formula():
    p, q = np.log([[0.5, 0.25, 0.25]]), np.log([[0.25, 0.25, 0.5]])
    expected = 0.5 * np.log(2) + 0.25 * np.log(0.5)
    np.testing.assert_allclose(divergence(p, q), [expected])
    assert divergence(p, p) == 0
