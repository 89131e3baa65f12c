"""When the TPU kernel is taken, what is lowered then, and what it never reads.

Its mathematics is in `test_contract`. Programs are lowered for a TPU without one.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from tests.ops.kernels.test_contract import CASES, INTERPRETED, check
from tests.sharding.mesh_run import mesh_of
from tests.tolerances import REORDERED
from visor_jax.models.parameters import parameter_shapes
from visor_jax.ops import attention
from visor_jax.ops.attention import attend, chosen, current_platform, writes_scores
from visor_jax.ops.kernels import block_table, tags_bodies, tags_pallas
from visor_jax.ops.kernels import tags as tags_kernel
from visor_jax.ops.kernels.kernel import KeyPart
from visor_jax.ops.kernels.plain import plain_attend
from visor_jax.ops.kernels.tags import TagsKernel, tags_attend
from visor_jax.ops.masks import MaskForm, TokenTags
from visor_jax.timing.accelerator import network

CALL = "tpu_custom_call"
NAMES = {"tags_forward", "tags_d_query", "tags_d_keys"}


@pytest.fixture(autouse=True)
def _one_device():
    with jax.set_mesh(mesh_of((1, 1, 1))):
        yield


def lowered(function, *arguments):
    return export.export(jax.jit(function), platforms=["tpu"])(*arguments).mlir_module()


def array(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


def tags(length, rows=1):
    order = jnp.broadcast_to(jnp.arange(length), (rows, length))
    return TokenTags(order, jnp.zeros_like(order), jnp.ones_like(order, bool))


def case(queries, keys, heads, width, *, dtype=jnp.bfloat16, rows=1, masked=True):
    """Returns a query, one part of keys, and the tags of the queries."""
    key = array(rows, keys, heads[1], width, dtype=dtype)
    part = KeyPart(key, key, tags(keys, rows) if masked else None)
    query = array(rows, queries, heads[0], width, dtype=dtype)
    return query, part, tags(queries, rows) if masked else None


# The shapes of the networks: a long prompt, adapter, tower; odd lengths among them.
TAKEN = {
    "text": case(1024, 1024, (14, 2), 64),
    "SELF": case(8448, 8448, (14, 2), 64),
    "SELF of the 7B network": case(3967, 3967, (28, 4), 128),
    "CROSS": case(1024, 7353, (14, 14), 64),
    "tower": case(729, 729, (16, 16), 72, rows=5, masked=False),
    "float32": case(128, 300, (4, 2), 64, dtype=jnp.float32),
}


@pytest.mark.parametrize("name", TAKEN)
def test_auto_takes_it_on_a_tpu_forward_and_backward_and_writes_no_scores(name):
    query, part, query_tags = TAKEN[name]

    def loss(query, key, value):
        own = part._replace(key=key, value=value)
        mixed = attend(query, [own], query_tags, platform="tpu")
        return mixed.astype(jnp.float32).sum()

    text = lowered(jax.grad(loss, argnums=(0, 1, 2)), query, part.key, part.value)
    assert set(re.findall(r'kernel_name = "(\w+)"', text)) == NAMES
    assert text.count(f"custom_call @{CALL}(") == 3
    queries, keys = (
        {x.shape[1], -(-x.shape[1] // 512) * 512} for x in (query, part.key)
    )
    for shape in re.findall(r"tensor<((?:\d+x)+)", text):
        sizes = [int(size) for size in shape.split("x")[:-1]]
        long = [size for size in sizes if size in queries | keys]
        assert len(long) < 2 or not queries & set(long) or not keys & set(long), shape


REFUSED = {
    "a kernel for TPUs, not cpu, where only tests": (TAKEN["SELF"], "cpu"),
    "a kernel for TPUs, not gpu": (TAKEN["SELF"], "gpu"),
    "bfloat16 or float32, not .*float16": (
        case(512, 512, (4, 4), 64, dtype=jnp.float16),
        "tpu",
    ),
    "heads 264 wide": (case(512, 512, (4, 4), 264), "tpu"),
    "heads 68 wide": (case(512, 512, (4, 4), 68), "tpu"),
    "1 queries are fewer than 128": (case(1, 8448, (14, 2), 64), "tpu"),
    "a table of 262144 pairs": (case(2**16, 2**15, (1, 1), 64, rows=32), "tpu"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_it_refuses_what_it_cannot_do_and_says_why(reason):
    (query, part, _), platform = REFUSED[reason]
    assert chosen(query, [part], platform=platform) in ("plain", "blockwise")
    with pytest.raises(ValueError, match=f"'tags' cannot.*{reason}"):
        chosen(query, [part], kernel="tags", platform=platform)


def test_without_a_mesh_it_takes_no_work_of_several_devices():
    query, part, _ = TAKEN["SELF"]
    nothing = jax.sharding.AbstractMesh((), ())
    with jax.sharding.use_abstract_mesh(nothing):
        assert chosen(query, [part], platform="tpu") == "blockwise"
        with pytest.raises(ValueError, match=r"8 devices.*jax\.set_mesh"):
            chosen(query, [part], kernel="tags", platform="tpu")


def test_the_mesh_in_context_says_what_programs_are_for():
    """...whatever this process runs on; formulas of memory follow."""
    assert current_platform() == "cpu"
    assert writes_scores(512, 512)
    mesh = jax.sharding.get_abstract_mesh()
    elsewhere = dataclasses.replace(mesh.abstract_device, platform="tpu")
    # Over more devices than there are rows or heads.
    planned = jax.sharding.AbstractMesh(
        (4, 1, 2), mesh.axis_names, mesh.axis_types, abstract_device=elsewhere
    )
    nothing = jax.sharding.AbstractMesh((), ())
    with (
        jax.sharding.use_abstract_mesh(nothing),
        jax.sharding.use_abstract_mesh(planned),
    ):
        assert current_platform() == "tpu"
        assert not writes_scores(512, 512)
        assert writes_scores(1, 512)


def test_it_never_reads_what_cannot_be_seen():
    """A product with NaN would give NaN, whatever the mask says.

    Rows of the batch: nothing is valid; large scores; keys 128 to 255 are NaN.
    """
    rng, length = np.random.default_rng(0), 256
    inputs = rng.normal(size=(3, 3, length, 2, 8)).astype(np.float32)
    inputs[:2, 1] *= 1e3
    seen = jnp.asarray([[False], [True], [True]]) & jnp.ones((3, length), bool)
    of = tags(length, rows=3).replace(valid=seen)
    ruined = inputs.copy()
    ruined[1:, 2, 128:] = np.nan

    @jax.jit
    def run(query, key, value):
        kernel = functools.partial(tags_attend, block=128, interpret=True)
        mixed, back = jax.vjp(lambda *x: kernel(*x, of, of), query, key, value)
        return mixed, back(mixed)

    mixed, gradients = run(*jnp.asarray(ruined))
    np.testing.assert_array_equal(mixed[0], 0)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient[0], 0)
        assert np.isfinite(gradient[1]).all()
    # The queries before the ruined keys.
    assert np.isfinite(gradients[0][2, :128]).all()
    assert np.isnan(mixed[2, 128:]).any()
    query, key, value = jnp.asarray(inputs)
    expected = plain_attend(query, [KeyPart(key, value, of)], of)
    np.testing.assert_allclose(mixed[1], expected[1], **REORDERED)
    np.testing.assert_allclose(mixed[2, :128], expected[2, :128], **REORDERED)


def test_a_pass_through_the_network_calls_it_everywhere(monkeypatch):
    """Two adapters and three layers; whatever is known of the masks."""
    monkeypatch.setattr(attention, "current_platform", lambda: "tpu")
    size = network.size("0.5B", tiny=True)
    config = size.config.replace(compute_dtype="bfloat16")
    size = dataclasses.replace(size, config=config, text_tokens=130)
    prompts = network.prompts(size, rows=1)
    prompts = prompts.replace(text_tags=prompts.text_tags.replace(form=MaskForm.TAGS))
    params = jax.tree.map(lambda x: array(*x.shape), parameter_shapes(config))
    text = lowered(network.prefill(config, (True,)), params, prompts)
    assert text.count(f"custom_call @{CALL}(") == 5
    text = lowered(network.tower(size), params, network.pixels(size, rows=1))
    assert text.count(f"custom_call @{CALL}(") == config.vision.num_layers


def test_what_tests_interpret_is_what_is_lowered():
    assert attention.KERNELS["tags"] == TagsKernel()
    assert not TagsKernel().interpret


def _any_segment(asked, seen):
    return seen[0][:, None] <= asked[0][None]


def _all_keys_valid(given, length, padded):
    given = given and given.replace(valid=jnp.ones_like(given.valid))
    return block_table.key_marks(given, length, padded)


def _off_by_one(meet):
    return jnp.roll(block_table.visits(meet), 1)


# What of the tags kernel is replaced, and by what.
FAULTS_OF_TAGS = {
    "segments are ignored": (tags_bodies, "_visible", _any_segment),
    "invalid keys are seen": (tags_kernel, "key_marks", _all_keys_valid),
    "the table is off by one": (tags_pallas, "visits", _off_by_one),
}


@pytest.mark.parametrize("fault", FAULTS_OF_TAGS)
def test_a_fault_in_the_tags_kernel_is_caught(fault, monkeypatch):
    """...by a case of the contract, which shows it to pass without."""
    monkeypatch.setattr(*FAULTS_OF_TAGS[fault])
    with pytest.raises(AssertionError):
        check(INTERPRETED["tags"], CASES["packed, in three parts"])
