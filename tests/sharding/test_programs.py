"""Programs find the mesh of their parameters; flags say which mesh that is."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.sharding.mesh_run import mesh_of
from visor_jax.commands import answer_flags
from visor_jax.ops.kernels.on_mesh import refuses_mesh
from visor_jax.sharding import programs
from visor_jax.sharding.mesh import MeshSettings, check_heads, planned_mesh
from visor_jax.sharding.programs import mesh_jit
from visor_jax.sharding.programs import mesh_of as found_mesh


@mesh_jit(static_argnames=("seen",))
def doubled(params, x, *, seen):
    mesh, rules = jax.sharding.get_abstract_mesh(), nn.get_logical_axis_rules()
    seen.append((0 if mesh.empty else mesh.size, bool(rules)))
    return params["w"] * x


class Seen(list):
    """A static argument that a program writes into while it is traced."""

    __hash__ = object.__hash__


def on(mesh):
    whole = jax.NamedSharding(mesh, jax.P())
    return {"w": jax.device_put(jnp.arange(8.0), whole)}


def test_a_program_runs_on_the_mesh_of_its_parameters():
    seen, mesh = Seen(), mesh_of((2, 2, 2))
    found = doubled(on(mesh), np.float32(2), seen=seen)
    np.testing.assert_array_equal(found, 2 * np.arange(8.0))
    assert seen == [(8, True)]
    assert jax.sharding.get_abstract_mesh().empty


def test_one_device_needs_no_mesh_where_kernels_are_xlas():
    seen = Seen()
    doubled({"w": jnp.arange(8.0)}, np.float32(2), seen=seen)
    assert seen == [(0, False)]
    assert found_mesh(()) is None


def test_one_device_of_several_says_that_it_is_alone(monkeypatch):
    """A kernel that cannot be split must know, where there is one."""
    query = jax.ShapeDtypeStruct((1, 256, 4, 8), jnp.float32)
    params = {"w": jax.device_put(jnp.arange(8.0), jax.devices()[3])}
    with programs.on_mesh(found_mesh(params)):
        assert "no mesh in context" in refuses_mesh(query, [query])
    monkeypatch.setattr(programs, "_ALONE_ON", ("cpu",))
    mesh = found_mesh(params)
    assert mesh.devices.tolist() == [[[jax.devices()[3]]]]
    with programs.on_mesh(mesh):
        assert refuses_mesh(query, [query]) is None
    found = doubled(params, np.float32(2), seen=Seen())
    assert found.devices() == {jax.devices()[3]}


def flag(text):
    return answer_flags.mesh_of(types.SimpleNamespace(mesh=text))


def test_the_flag_is_three_numbers_that_fit_the_devices():
    assert flag(None) is None
    assert flag("2,-1,2").shape == {"data": 2, "fsdp": 2, "tensor": 2}
    assert MeshSettings.parse("1,4,2") == MeshSettings(data=1, fsdp=4, tensor=2)
    for text in ("2,2", "a,b,c", "", "1,1,1,8"):
        with pytest.raises(ValueError, match=f"--mesh={text}: .*DATA,FSDP,TENSOR"):
            flag(text)
    with pytest.raises(ValueError, match=r"--mesh=2,2,1: .*does not fit 8 devices"):
        flag("2,2,1")
    with pytest.raises(ValueError, match=r"--mesh=0,8,1: .*at least 1"):
        flag("0,8,1")


def test_query_heads_must_split():
    check_heads(28, planned_mesh(2, 1, 4))
    with pytest.raises(ValueError, match=r"28 query heads .* tensor 8.*\[1, 2, 4, 7"):
        check_heads(28, planned_mesh(1, 1, 8))
