"""The image's share of attention, against NumPy and its identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.analysis import numpy_layers, small_study
from tests.tolerances import REFERENCE
from visor_jax.analysis.figures import attention
from visor_jax.analysis.figures.attention import attention_of


@pytest.mark.parametrize("name", ["dense", "read"])
def test_measures_are_those_of_the_reference(name, monkeypatch):
    # Several parts, the last of which is not full.
    monkeypatch.setattr(attention, "_ROWS", 3)
    study = small_study.study_of(tiny.NETWORKS[name])
    prompts, batch = small_study.prompts(study)
    found = attention_of(study, prompts)
    network = study.network
    for row in range(len(small_study.SAMPLES)):
        expected = numpy_layers.run(
            network.params, network.config, batch, row, study.ways
        )
        for layer, way in enumerate(study.ways):
            share, relative, text, added = (
                found[key][row, layer]
                for key in ("share", "relative", "share_of_text", "added")
            )
            if way == "cross":
                assert np.isnan(share)
                value = expected.added.get(layer, 0)
                np.testing.assert_allclose(added, value, **REFERENCE)
                continue
            assert np.isnan(added)
            if way == "text":
                assert (share, relative, text) == (0, 0, 0)
                continue
            shares = expected.shares[layer]
            np.testing.assert_allclose(share, shares[-1], **REFERENCE)
            np.testing.assert_allclose(text, np.mean(shares), **REFERENCE)
            if row == 2:
                # Without an image there is nothing to look at.
                assert (share, text) == (0, 0)
                assert np.isnan(relative)
            else:
                assert 0 < share < 1
                even = shares[-1] / expected.evens[layer]
                np.testing.assert_allclose(relative, even, **REFERENCE)


def test_even_attention_gives_the_image_its_share_of_tokens():
    config = tiny.NETWORKS["dense"]
    params = jax.tree.map(lambda x: x, tiny.params_of(config)["params"])
    for layer in range(config.plan.num_layers):
        part = params["language_model"][f"layers_{layer}"]["self_attn"]
        part["q_proj"] = jax.tree.map(jnp.zeros_like, part["q_proj"])
    study = small_study.study_of(config, params)
    prompts, _ = small_study.prompts(study)
    found = attention_of(study, prompts)
    tokens = [(12, 16), (7, 15)]
    for row, (image, every) in enumerate(tokens):
        np.testing.assert_allclose(found["share"][row], image / every, rtol=1e-6)
        np.testing.assert_allclose(found["relative"][row], 1, rtol=1e-6)
    # The last row's four tokens behind three more see 8 .. 5 fewer of the text.
    means = np.mean([7 / (3 + 7 + k) for k in range(1, 6)])
    np.testing.assert_allclose(found["share_of_text"][1], means * 5 / 8, rtol=1e-6)
