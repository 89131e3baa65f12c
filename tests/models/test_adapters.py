"""The shapes adapters have, what they cost, and what new ones start as."""

import dataclasses

import jax
import pytest

from tests import tiny
from tests.models import numpy_reference
from tests.models.test_reference import assert_text_close
from tests.tolerances import REFERENCE
from visor_jax.budget import Budget
from visor_jax.flops.account import account
from visor_jax.flops.cache_bytes import cache_bytes
from visor_jax.models.adapters import own_sources, with_adapters
from visor_jax.models.config import VLMConfig
from visor_jax.models.parameters import parameter_shapes
from visor_jax.models.variants import dense, llava_ov_0p5b, llava_ov_7b

CONFIG = tiny.NETWORKS["cross_only"]
NORMED = CONFIG.replace(
    decoder=dataclasses.replace(CONFIG.decoder, qkv_bias=False, qk_norm=True)
)


def heads(config):
    return config.adapter.num_kv_heads


def test_a_shape_is_the_decoders_or_has_all_heads():
    for config in (llava_ov_0p5b(), llava_ov_7b(), CONFIG):
        assert heads(with_adapters(config, "decoder")) == config.decoder.num_kv_heads
        assert heads(with_adapters(config, "paper")) == config.decoder.num_heads
        assert with_adapters(config) == config
    # The published sizes come in the cheap one.
    assert with_adapters(llava_ov_0p5b(), "decoder") == llava_ov_0p5b()
    assert with_adapters(llava_ov_7b(), "decoder") == llava_ov_7b()


def test_impossible_adapters_are_refused():
    with pytest.raises(ValueError, match=r"adapters='wide' is not one of \('decoder'"):
        with_adapters(CONFIG, "wide")
    with pytest.raises(ValueError, match=r"adapter_init='zero' is not one of"):
        with_adapters(CONFIG, init="zero")
    with pytest.raises(
        ValueError, match=r"copies 2 key/value heads and the adapters have 4: set"
    ):
        with_adapters(CONFIG, "paper", "own")


@pytest.mark.parametrize("published", [llava_ov_0p5b, llava_ov_7b])
def test_grouped_adapters_never_cache_more_than_dense(published):
    lengths = {"text_slots": 100, "image_tokens": 7353}
    config = published()
    network = dense(config)
    most = cache_bytes(network, Budget.all(network.plan), **lengths).total
    for budget in (Budget.none(), Budget.all(config.plan)):
        assert cache_bytes(config, budget, **lengths).total < most
        full = with_adapters(config, "paper")
        assert cache_bytes(full, budget, **lengths).total > 2 * most


def test_the_cheapest_budget_costs_what_arithmetic_says():
    """0.5B, 7,353 image tokens: two of fourteen heads' keys and values, eight times."""
    config = llava_ov_0p5b()
    lengths = {"text_tokens": 100, "image_tokens": 7353, "crops": 31}
    costs = [
        account(each, Budget.none(), **lengths, logit_positions=1).llm_prefill
        for each in (with_adapters(config, "paper"), config)
    ]
    assert costs[0] - costs[1] == 8 * 2 * (2 * 7353 * 896 * 12 * 64)
    assert costs[1] == pytest.approx(124e9, rel=0.001)


@pytest.mark.parametrize("config", [CONFIG, NORMED], ids=["bias", "norm"])
def test_adapters_in_the_decoders_own_shape_are_those_of_the_reference(config):
    config = with_adapters(config, "decoder", "own")
    params, batch = tiny.params_of(config), tiny.random_batch(config, seed=2)
    found = tiny.forward_static(params, batch, config=config, gates=())
    expected = numpy_reference.forward(params, config, batch, ())
    assert_text_close(batch, found.logits, expected, REFERENCE)
    assert VLMConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("config", [CONFIG, NORMED], ids=["bias", "norm"])
def test_everything_but_taps_and_output_has_a_source_of_its_shape(config):
    config = with_adapters(config, "decoder", "own")
    shapes = jax.tree_util.tree_flatten_with_path(parameter_shapes(config))[0]
    shapes = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in shapes}
    sources = own_sources(shapes)
    for path, source in sources.items():
        assert shapes[path].shape == shapes[source].shape
        assert path.split("/cross_attention/")[0] in source
    left = {path for path in shapes if "cross_attention" in path} - sources.keys()
    names = {path.split("/cross_attention/")[1] for path in left}
    assert names == {"position_conv", "o_proj/kernel"}
    modules = {source.split("/")[-2] for source in sources.values()}
    expected = {"input_layernorm", "q_proj", "k_proj", "v_proj"}
    norms = {"q_norm", "k_norm"} if config.decoder.qk_norm else set()
    assert modules == expected | norms


def test_descriptions_of_older_networks_are_what_they_were():
    assert set(CONFIG.to_dict()["adapter"]) == {
        *("num_kv_heads", "conv_kernel", "init_std")
    }
    described = with_adapters(CONFIG, "decoder", "own").to_dict()
    assert described["adapter"]["qkv_bias"] is True
    assert VLMConfig.from_dict(described).adapter.qkv_bias
