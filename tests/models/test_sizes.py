"""Parameter counts and shapes of the real networks; nothing is allocated."""

import math

import jax
import pytest

from tests.flops import abstract_model
from visor_jax.models.adapters import with_adapters
from visor_jax.models.config import VLMConfig
from visor_jax.models.variants import dense, variant
from visor_jax.models.vlm import VLM

PUBLISHED = {"llava_ov_0p5b": 893_675_552, "llava_ov_7b": 8_030_807_584}


def abstract(config: VLMConfig):
    inputs = abstract_model.abstract_batch(
        config, batch=1, crops=2, image_tokens=100, text_tokens=8
    )
    return abstract_model.abstract_params(config, inputs), inputs


def count(config: VLMConfig) -> int:
    params, _ = abstract(config)
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def adapter_size(config: VLMConfig) -> int:
    """Two norms, the convolution, and projections from and to the decoder's width."""
    d, a = config.decoder, config.adapter
    queries, keys = d.num_heads * d.head_dim, a.num_kv_heads * d.head_dim
    return (2 + a.conv_kernel) * d.width + 2 * d.width * (queries + keys)


@pytest.mark.parametrize("name", PUBLISHED)
def test_dense_network_has_the_published_parameter_count(name):
    assert count(dense(variant(name))) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "shape", "added"),
    [
        ("llava_ov_0p5b", "paper", 25_754_624),
        ("llava_ov_7b", "paper", 462_712_320),
        ("llava_ov_0p5b", None, 14_744_576),
        ("llava_ov_7b", None, 264_531_456),
    ],
)
def test_visor_adds_its_adapters_and_nothing_else(name, shape, added):
    config = with_adapters(variant(name), shape)
    adapters = len(config.plan.cross_layers)
    assert adapters * adapter_size(config) == added
    assert count(config) == PUBLISHED[name] + added


@pytest.mark.parametrize("make", [dense, lambda config: config])
@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_of_the_real_network(name, make):
    config = make(variant(name))
    params, inputs = abstract(config)
    gates = jax.ShapeDtypeStruct((len(config.plan.self_layers),), bool)
    output = jax.eval_shape(VLM(config).apply, {"params": params}, inputs, gates)
    assert output.logits.shape == (1, 8, config.decoder.vocab_size)
    assert output.logits.dtype == "float32"
    assert output.reading_logits == {}
