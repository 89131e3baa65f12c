"""What a notebook shows of a network."""

import jax
import pytest

import visor_jax
from tests import tiny
from tests.inference import page_run
from visor_jax.inference.loading.network import Network
from visor_jax.inference.model_summary import summary_html


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return visor_jax.load(
        page_run.save(tmp_path_factory.mktemp("run"), page_run.parameters())
    )


def test_sizes_plan_and_the_cost_of_every_budget(model):
    shown = model._repr_html_()
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    assert f"{count:,}" in shown
    assert "3: CROSS 0; SELF 1, 2; the others TEXT" in shown
    assert "96 pixels a side, 144 tokens a crop" in shown
    for budget in model.budgets:
        assert f"budget {budget.name}<" in shown
        assert f"{model.cost(budget).llm_saving:.2f} times" in shown


def test_names_of_others_are_no_markup(model):
    metadata = {"source": "<b>evil</b>"}
    config = tiny.NETWORKS["visor"]
    network = Network(
        config=config,
        params={},
        budgets=tiny.every_budget(config),
        processor=None,
        metadata=metadata,
    )
    assert "<b>" not in summary_html(network)
