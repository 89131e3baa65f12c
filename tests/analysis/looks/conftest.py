"""A network for tiled pages that was never trained."""

import pytest

from tests import tiny
from tests.analysis.looks.tiled_network import CONFIG, METADATA
from visor_jax.budget import BudgetSet
from visor_jax.data.pages.forms import vocabulary_of
from visor_jax.data.pages.processor import page_processor
from visor_jax.data.pages.tokenizer import page_tokenizer
from visor_jax.inference.loading.network import Network


@pytest.fixture(scope="session")
def network():
    return Network(
        config=CONFIG,
        params=tiny.params_of(CONFIG)["params"],
        budgets=BudgetSet.parse("none,all", CONFIG.plan),
        processor=page_processor(page_tokenizer(vocabulary_of("tiles")), "tiles"),
        metadata=METADATA,
    )
