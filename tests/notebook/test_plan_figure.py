"""The drawing shows as many boxes as the plan has layers, hollow where a budget is."""

import pytest
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyBboxPatch

from visor_jax.budget import Budget
from visor_jax.layer_plan import LayerPlan
from visor_jax.notebook.plan_figure import plan_figure

PLAN = LayerPlan.build(6, cross=(0, 2, 4), self_=(1, 3))


def boxes(figure):
    (axes,) = figure.axes
    return [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]


def words(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_layers_that_a_budget_leaves_out_are_hollow():
    figure = plan_figure(PLAN, Budget((3,)))
    hollow = [box for box in boxes(figure) if box.get_facecolor() == to_rgba("white")]
    # Six on the text, two SELF layers on the image, of which one is off.
    assert (len(boxes(figure)), len(hollow)) == (8, 1)
    assert words(figure).count("look") == 3
    assert words(figure).count("refine") == words(figure).count("off") == 1


def test_a_layer_that_reads_has_an_arrow_and_a_hollow_box():
    figure = plan_figure(PLAN, Budget((1,), (3,)))
    hollow = [box for box in boxes(figure) if box.get_facecolor() == to_rgba("white")]
    assert (len(boxes(figure)), len(hollow)) == (8, 1)
    assert words(figure).count("read") == words(figure).count("refine") == 1
    kinds = plan_figure(LayerPlan.build(2, read=(1,)))
    assert words(kinds).count("read") == 1
    assert len(boxes(kinds)) == 2


def test_without_a_budget_all_layers_run():
    assert "off" not in words(plan_figure(PLAN))


def test_a_budget_of_another_plan_is_refused():
    with pytest.raises(ValueError, match="2"):
        plan_figure(PLAN, Budget((2,)))
