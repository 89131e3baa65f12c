"""The slider shows what the model says, budget by budget."""

import io
import re

import numpy as np
import pytest
from PIL import Image

import visor_jax
from tests.inference import page_run
from visor_jax.notebook.attention_figure import attention_figure
from visor_jax.notebook.budget_explorer import BudgetExplorer, _as_shown

QUESTIONS = ["largest digit row 1", "ring"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return visor_jax.load(
        page_run.save(tmp_path_factory.mktemp("run"), page_run.parameters())
    )


@pytest.fixture(scope="module")
def explorer(model):
    return BudgetExplorer(model, page_run.page(), QUESTIONS, max_new_tokens=3)


def test_the_slider_has_the_budgets_of_the_network(explorer, model):
    assert [budget for _, budget in explorer.budget.options] == list(model.budgets)
    assert explorer.budget.value == model.budgets.largest


def test_moving_it_shows_answer_and_cost_of_that_budget(explorer, model):
    shown = set()
    for question in QUESTIONS:
        explorer.question.value = question
        for budget in model.budgets:
            explorer.budget.value = budget
            answer = model.generate(page_run.page(), question, budget, max_new_tokens=3)
            table = explorer.result.value
            assert f"<b>{answer}</b>" in table
            tokens = int(model.batch(page_run.page(), question).text_mask.sum())
            cost = model.cost(budget, text_tokens=tokens)
            assert f"{cost.llm_prefill / 1e9:.3g} GFLOP" in table
            assert f"{cost.llm_saving:.2f} times less than dense" in table
            assert float(re.search(r"([0-9.]+) ms", table)[1]) > 0
            shown.add(table)
    assert len(shown) == len(QUESTIONS) * len(model.budgets)


def test_the_picture_is_beside_it_and_large_enough_to_be_seen(explorer):
    assert explorer.box.children[0] is explorer.picture
    shown = np.asarray(Image.open(io.BytesIO(explorer.picture.value)))
    # A page of 96 pixels, each three by three.
    assert shown.shape == (288, 288, 3)
    assert (shown[1::3, 1::3] == page_run.page()).all()
    photo = np.zeros((1000, 2000, 3), np.uint8)
    assert Image.open(io.BytesIO(_as_shown(photo))).size == (288, 144)


def test_a_word_that_the_network_does_not_know_is_told(explorer):
    explorer.question.value = "largest <zebra>"
    assert "zebra" in explorer.result.value
    assert "<zebra>" not in explorer.result.value
    explorer.question.value = QUESTIONS[0]
    assert "<b>" in explorer.result.value


def test_heat_maps_lie_over_the_picture(model):
    figure = attention_figure(model, page_run.page(), "ring", "all")
    picture, *maps = figure.axes
    assert len(maps) == len(model.config.plan.cross_layers)
    (shown,) = picture.images
    assert (shown.get_array() == page_run.page()).all()
    for axes in maps:
        weights = axes.images[-1].get_array()
        assert weights.shape == (12, 12)
        # Every token shows a patch of the page here, so nothing of the look is lost.
        assert weights.sum() == pytest.approx(1, abs=1e-5)


def test_a_network_without_adapters_has_no_maps(model, monkeypatch):
    dense = type(model.config.plan).dense(model.config.plan.num_layers)
    monkeypatch.setattr(model, "config", model.config.replace(plan=dense))
    with pytest.raises(ValueError, match="no CROSS layers"):
        attention_figure(model, page_run.page(), "ring", "all")
