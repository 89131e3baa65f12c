"""Meshes, and the rules by which parameters are split over them."""

import functools

import flax.traverse_util
import jax
import numpy as np
import pytest

from visor_jax import axes
from visor_jax.models import variants
from visor_jax.models.config import CompressorConfig
from visor_jax.models.parameters import parameter_shapes
from visor_jax.policy.network import PolicyConfig, new_policy
from visor_jax.sharding.axis_rules import RULES, samples_split, spec
from visor_jax.sharding.mesh import (
    MeshSettings,
    describe_mesh,
    make_mesh,
    planned_mesh,
)
from visor_jax.sharding.param_rules import (
    PARAM_RULES,
    param_shardings,
    rule_of,
    whole_parameters,
)


def test_mesh_fills_what_is_left():
    mesh = make_mesh(MeshSettings(data=-1, fsdp=2, tensor=2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert samples_split(mesh) == 4
    assert describe_mesh(mesh) == "mesh data 2 x fsdp 2 x tensor 2, 8 cpu devices"


@pytest.mark.parametrize("sizes", [{"data": 3}, {"data": 16}, {"data": -1, "fsdp": 3}])
def test_a_mesh_that_does_not_fit_names_the_devices(sizes):
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        make_mesh(MeshSettings(**sizes))


@pytest.mark.parametrize("sizes", [{"data": 0}, {"data": -1, "fsdp": -1}])
def test_impossible_mesh_settings(sizes):
    with pytest.raises(ValueError, match="-1"):
        MeshSettings(**sizes)


def test_every_logical_axis_has_a_rule():
    assert set(RULES) == set(axes.LOGICAL_AXES)


def test_one_mesh_axis_cannot_split_two_dimensions():
    with pytest.raises(ValueError, match="twice"):
        spec((axes.HEADS, axes.MLP))
    with pytest.raises(ValueError, match="Unknown logical axes"):
        spec(("width",))


@functools.cache
def shapes_of(name):
    """Returns {path: shape and dtype} of a full-size network's parameters.

    With a convolution behind the projector, which no preset has by itself.
    """
    config = variants.variant(name).replace(projector_convolution=3)
    params = parameter_shapes(config, reading=True)
    return flax.traverse_util.flatten_dict(params, sep="/")


def policy_paths():
    params = jax.eval_shape(
        functools.partial(new_policy, PolicyConfig(num_budgets=2), 8), jax.random.key(0)
    )
    return set(flax.traverse_util.flatten_dict({"policy": params}, sep="/"))


def optional_paths():
    """Returns the parameters of a network that has what no variant has by itself."""
    compressor = CompressorConfig(kind="packing", size=2)
    params = parameter_shapes(variants.variant("mini").replace(compressor=compressor))
    return set(flax.traverse_util.flatten_dict(params, sep="/"))


def flat_shardings(flat, mesh):
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    return flax.traverse_util.flatten_dict(param_shardings(params, mesh), sep="/")


@pytest.mark.parametrize("sizes", [(2, 4, 1), (1, 128, 1), (1, 2, 2)])
@pytest.mark.parametrize("variant", ["llava_ov_0p5b", "llava_ov_7b"])
def test_every_large_parameter_of_every_preset_is_split(variant, sizes):
    flat = shapes_of(variant)
    shardings = flat_shardings(flat, planned_mesh(*sizes))
    assert not whole_parameters(flat, shardings, at_least=2**16)
    # What stays whole is next to nothing.
    whole = sum(
        x.size
        for path, x in flat.items()
        if shardings[path].shard_shape(x.shape) == x.shape
    )
    assert whole < 1e-3 * sum(x.size for x in flat.values())


def test_every_rule_is_that_of_some_parameter():
    everything = {path for name in variants.VARIANTS for path in shapes_of(name)}
    everything |= policy_paths() | optional_paths()
    used = {rule_of(path) for path in everything}
    unused = [rule for i, (rule, _) in enumerate(PARAM_RULES) if i not in used]
    assert not unused


def test_a_large_parameter_that_stays_whole_is_warned_of(caplog):
    path, shape = "policy/dense_0/kernel", jax.ShapeDtypeStruct((2048, 512), np.float32)
    with caplog.at_level("WARNING"):
        shardings = flat_shardings({path: shape}, planned_mesh(1, 8, 1))
        assert path in caplog.text
        caplog.clear()
        flat_shardings({path: shape}, planned_mesh(8, 1, 1))
        assert not caplog.text
    assert whole_parameters({path: shape}, shardings) == [path]
    assert not whole_parameters({path: shape}, shardings, at_least=2**21)


def test_unknown_and_indivisible_parameters_are_named_by_what_is_wrong():
    mesh = make_mesh(MeshSettings(data=1, fsdp=8, tensor=1))
    shape = jax.ShapeDtypeStruct((12, 12), np.float32)
    params = {
        "surprise": {"kernel": shape},
        "language_model": {"embed_tokens": {"embedding": shape}},
        "vision_tower": {
            "encoder": {
                f"layers_{i}": {"mlp": {"fc1": {"kernel": shape}}} for i in range(40)
            }
        },
    }
    with pytest.raises(ValueError, match="surprise/kernel") as error:
        param_shardings(params, mesh)
    said = str(error.value).splitlines()
    assert len(said) == 3
    assert "12 does not split into 8 (fsdp): language_model/embed_tokens" in said[2]
    # The embedding and 40 kernels, of which a few tell enough.
    assert said[2].endswith(" and 38 more")
