"""cuDNN is called where it can be, and nowhere else: lowered for a GPU without one."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from jax import export
from jax._src.cudnn import fused_attention_stablehlo

from visor_jax.ops import attention
from visor_jax.ops.attention import attend, chosen
from visor_jax.ops.kernels.kernel import KeyPart
from visor_jax.ops.masks import MaskForm, TokenTags, form_between
from visor_jax.timing.accelerator import network

CALL = "__cudnn$fmhaSoftmax"


@pytest.fixture
def with_cudnn(monkeypatch):
    """What lowering asks the machine: an H100 with cuDNN 9.11."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91100)
    monkeypatch.setattr(
        fused_attention_stablehlo, "check_compute_capability", lambda c: float(c) <= 9
    )
    monkeypatch.setattr(
        fused_attention_stablehlo,
        "is_cuda_compute_capability_equal",
        lambda c: c == "9.0",
    )


def lowered(function, *arguments):
    calls = [f"{CALL}{direction}" for direction in ("", "Backward")]
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in calls]
    make = export.export(jax.jit(function), platforms=["cuda"], disabled_checks=checks)
    return make(*arguments).mlir_module()


def calls_in(text):
    return set(re.findall(r"__cudnn\$\w+", text))


def array(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


def tags(length, form):
    order = jnp.arange(length)[None]
    return TokenTags(order, jnp.zeros_like(order), order >= 0, form)


def case(queries, keys, heads, width, form, *, dtype=jnp.bfloat16):
    """Returns query, key and the tags of both; form None: no mask."""
    query = array(1, queries, heads[0], width, dtype=dtype)
    key = array(1, keys, heads[1], width, dtype=dtype)
    if form is None:
        return query, key, None, None
    of_keys = tags(keys, form)
    of_queries = of_keys if queries == keys else tags(queries, MaskForm.CAUSAL)
    return query, key, of_queries, of_keys


# The shapes of the networks: a long prompt, adapter, tower; odd lengths among them.
TAKEN = {
    "SELF": case(8448, 8448, (14, 2), 64, MaskForm.CAUSAL),
    "SELF of the 7B network": case(3967, 3967, (28, 4), 128, MaskForm.CAUSAL),
    "CROSS": case(1024, 7353, (14, 14), 64, MaskForm.WHOLE),
    "tower": case(729, 729, (16, 16), 72, None),
}


def part_of(key, query_tags, key_tags):
    if key_tags is None:
        return KeyPart(key, key, None)
    return KeyPart(key, key, key_tags, form_between(query_tags, key_tags))


@pytest.mark.parametrize("name", TAKEN)
def test_auto_calls_cudnn_forward_and_backward_and_writes_no_mask(with_cudnn, name):
    query, key, query_tags, key_tags = TAKEN[name]

    def loss(query, key, value):
        part = part_of(key, query_tags, key_tags)._replace(value=value)
        mixed = attend(query, [part], query_tags, platform="cuda")
        return mixed.astype(jnp.float32).sum()

    def gradients(query, key, value):
        return jax.grad(loss, argnums=(0, 1, 2))(query, key, value)

    text = lowered(gradients, query, key, key)
    assert calls_in(text) == {CALL, f"{CALL}Backward"}
    sizes = [
        set(map(int, re.findall(r"(\d+)x", t))) for t in re.findall(r"<[\dx]+", text)
    ]
    lengths = {-(-n // 8) * 8 for n in (query.shape[1], key.shape[1])}
    if len(lengths) == 2:
        assert not any(lengths <= each for each in sizes)
    else:
        longest = lengths.pop()
        square = re.compile(rf"<(?:\d+x)*{longest}x(?:\d+x)*{longest}x")
        assert not square.search(text)


REFUSED = {
    "cuDNN is for NVIDIA GPUs, not cpu": (TAKEN["SELF"], "cpu"),
    "float32": (
        case(512, 512, (4, 4), 64, MaskForm.CAUSAL, dtype=jnp.float32),
        "gpu",
    ),
    "heads 136 wide": (case(512, 512, (4, 4), 136, MaskForm.CAUSAL), "gpu"),
    "heads 68 wide": (case(512, 512, (4, 4), 68, MaskForm.CAUSAL), "gpu"),
    "1 queries are fewer": (case(1, 8448, (14, 2), 64, MaskForm.WHOLE), "gpu"),
    # A packed row; and text that looks at an image with text in its midst.
    "nothing is known": (case(512, 512, (4, 4), 64, MaskForm.TAGS), "gpu"),
    "nothing is known of": (case(512, 900, (4, 4), 64, MaskForm.CAUSAL), "gpu"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_cudnn_refuses_what_it_cannot_do_and_says_why(reason):
    (query, key, query_tags, key_tags), platform = REFUSED[reason]
    parts = [part_of(key, query_tags, key_tags)]
    assert chosen(query, parts, platform=platform) in ("plain", "blockwise")
    with pytest.raises(ValueError, match=f"'cudnn' cannot.*{reason}"):
        chosen(query, parts, kernel="cudnn", platform=platform)


def test_masked_keys_in_parts_are_refused():
    query, key, query_tags, key_tags = TAKEN["SELF"]
    parts = [part_of(key, query_tags, key_tags)] * 2
    assert chosen(query, parts, platform="gpu") == "blockwise"
    assert chosen(query, [KeyPart(key, key, None)] * 2, platform="gpu") == "cudnn"


@pytest.mark.parametrize(
    ("forms", "calls"),
    [
        # Two adapters, and three layers: two of text, one of both streams.
        ((MaskForm.WHOLE, MaskForm.CAUSAL), 5),
        # Text stands in the midst of the images.
        ((MaskForm.CAUSAL, MaskForm.CAUSAL), 3),
        # Packed questions: adapters alone.
        ((MaskForm.WHOLE, MaskForm.TAGS), 2),
        ((MaskForm.TAGS, MaskForm.TAGS), 0),
    ],
)
def test_a_prefill_calls_cudnn_where_the_tags_say_enough(
    with_cudnn, monkeypatch, forms, calls
):
    monkeypatch.setattr(attention, "current_platform", lambda: "gpu")
    size = network.size("0.5B", tiny=True)
    config = size.config.replace(compute_dtype="bfloat16")
    size = dataclasses.replace(size, config=config, text_tokens=130)
    prompts = network.prompts(size, rows=1)
    prompts = prompts.replace(
        image_tags=prompts.image_tags.replace(form=forms[0]),
        text_tags=prompts.text_tags.replace(form=forms[1]),
    )
    run = network.prefill(config, (True,))
    text = lowered(run, network.random_params(config), prompts)
    assert len(re.findall(rf"custom_call @{re.escape(CALL)}\(", text)) == calls


def test_a_tower_calls_cudnn_in_every_block(with_cudnn, monkeypatch):
    monkeypatch.setattr(attention, "current_platform", lambda: "gpu")
    size = network.size("0.5B", tiny=True)
    config = size.config.replace(compute_dtype="bfloat16")
    size = dataclasses.replace(size, config=config)
    pixels = network.pixels(size, rows=1)
    text = lowered(network.tower(size), network.random_params(config), pixels)
    blocks = config.vision.num_layers
    assert len(re.findall(rf"custom_call @{re.escape(CALL)}\(", text)) == blocks
