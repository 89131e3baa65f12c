"""Where layers look for each token of an answer: as for the first, one by one."""

import dataclasses

import numpy as np
import pytest

from tests.data.tiny_llava import random_image
from tests.inference.server import served
from visor_jax.analysis.answer_looks import answer_looks, answer_times
from visor_jax.analysis.cross_attention_maps import cross_attention_maps
from visor_jax.analysis.image_places import ImagePlaces
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.request import Request
from visor_jax.inference.generation.generate import Latency
from visor_jax.inference.visor_model import VisorModel
from visor_jax.models.variants import dense

# One crop of all of it, and two tiles.
SIZE = (40, 90)
REQUEST = Request("Why?", random_image(*SIZE))
ANSWER = "So it is."


def prompt_and(model, text):
    """Returns the batch of the question with the beginning of an answer behind it."""
    sample = model.processor.sample(REQUEST, room=9)
    layout, more = sample.layout, np.frombuffer(text.encode(), np.uint8)
    # A token of the tiny tokenizer is a byte under another number.
    more = [model.tokenizer.encode(chr(byte))[0] for byte in more]
    count = len(layout.tokens) + len(layout.image_positions)
    longer = dataclasses.replace(
        layout,
        tokens=np.append(layout.tokens, np.array(more, np.int32)),
        text_positions=np.append(
            layout.text_positions, count + np.arange(len(more), dtype=np.int32)
        ),
        targets=np.zeros(len(layout.tokens) + len(more), np.int32),
        loss_mask=np.zeros(len(layout.tokens) + len(more), bool),
    )
    return model.processor.batch(dataclasses.replace(sample, layout=longer))


@pytest.mark.parametrize("budget", served.BUDGETS)
def test_every_token_looks_as_it_does_when_it_is_written(budget):
    model = served.model()
    found = answer_looks(model, REQUEST, ANSWER, budget)
    assert found.layers == (0, 2)
    assert "".join(found.tokens) == ANSWER
    settings = model.processor.buckets.image_settings
    places = ImagePlaces.of(*SIZE, settings, crops=range(3))
    assert found.maps.shape == (2, len(ANSWER), *places.shape)
    assert places.shape[1] > settings.patches_per_side
    exact = np.zeros(found.maps.shape)
    for number in range(len(ANSWER)):
        batch = prompt_and(model, ANSWER[:number])
        maps = cross_attention_maps(model.network, batch, model.budget(budget))
        for place, layer in enumerate(found.layers):
            exact[place, number] = places.map(maps[layer][0], batch, 0)
            # All but what is looked at learned newlines.
            patches = batch.image_token_index[0] < 3 * settings.patches_per_crop
            shown = maps[layer][0][patches & batch.image_mask[0]].sum()
            np.testing.assert_allclose(exact[place, number].sum(), shown, rtol=1e-5)
    # One level of 255, whose half is lost by rounding.
    most = np.array(found.most)[:, None, None, None]
    np.testing.assert_allclose(found.maps / 255, exact / most, rtol=0, atol=0.51 / 255)
    np.testing.assert_allclose(found.most, exact.max(axis=(1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(
        found.shown, exact.sum(axis=(2, 3)).mean(axis=1), rtol=1e-4
    )
    assert np.abs(np.diff(exact, axis=1)).max() > 1e-3


def test_looks_are_over_the_crops_that_the_request_names():
    model, options = served.model(), AnswerOptions(crops="base")
    asked = dataclasses.replace(REQUEST, options=options)
    base = VisorModel(model.network.looking_at("base"))
    found, expected = (
        answer_looks(each, request, "So", "all")
        for each, request in ((model, asked), (base, REQUEST))
    )
    settings = model.processor.buckets.image_settings
    places = ImagePlaces.of(*SIZE, settings, crops=(0,))
    assert found.maps.shape[2:] == places.shape
    np.testing.assert_array_equal(found.maps, expected.maps)


def test_what_has_no_looks_is_refused():
    model = served.model()
    budget = served.BUDGETS[0]
    image = random_image(40, 50)
    for asked in (Request("Why?"), Request("Why?", [image, image])):
        with pytest.raises(ValueError, match="over exactly one image"):
            answer_looks(model, asked, ANSWER, budget)
    for answer in ("", "a" * 257):
        with pytest.raises(ValueError, match=f"has {len(answer)} tokens"):
            answer_looks(model, REQUEST, answer, budget)
    config = dense(model.config)
    blind = VisorModel(dataclasses.replace(model.network, config=config))
    with pytest.raises(ValueError, match="no CROSS layers"):
        answer_looks(blind, REQUEST, ANSWER, "all")


def test_times_are_of_the_budget_and_of_every_layer_over_everything(monkeypatch):
    asked = []

    def latency(self, batch, budget, *, max_new_tokens):
        plan = self.config.plan
        asked.append((plan, self.budget(budget).gates(plan), max_new_tokens))
        # In every second call the dense network's.
        count = len(asked)
        return Latency(
            prefill=[1.0, 20.0, 9.0, 21.0, 2.0, 90.0][count - 1], per_token=2.0
        )

    monkeypatch.setattr(VisorModel, "latency", latency)
    model = served.model()
    found = answer_times(model, REQUEST, served.BUDGETS[0], new_tokens=4)
    assert found["budget"] == Latency(prefill=2.0, per_token=2.0)
    assert found["dense"] == Latency(prefill=21.0, per_token=2.0)
    (plan, gates, count), (dense_plan, dense_gates, dense_count) = asked[:2]
    assert (plan, gates) == (model.config.plan, (False,))
    assert count == dense_count == 4
    assert not dense_plan.cross_layers
    assert len(dense_plan.self_layers) == model.config.plan.num_layers
    assert all(dense_gates)


def test_the_dense_network_runs_with_the_same_parameters():
    found = answer_times(served.model(), REQUEST, served.BUDGETS[0], new_tokens=2)
    assert all(each.prefill > 0 and each.per_token > 0 for each in found.values())
