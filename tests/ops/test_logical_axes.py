"""Which dimensions are split, and what stays whole."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from tests.sharding.mesh_run import mesh_of
from visor_jax.axes import BATCH, KV_HEADS
from visor_jax.ops.logical_axes import constrained, spec_of
from visor_jax.sharding.axis_rules import logical_rules

NAMES = (BATCH, None, KV_HEADS, None)


@pytest.mark.parametrize(
    ("shape", "sizes", "expected"),
    [
        ((8, 5, 4, 2), (2, 4, 1), (("data", "fsdp"), None, ("tensor",), None)),
        ((6, 5, 4, 2), (2, 4, 1), (("data",), None, ("tensor",), None)),
        ((1, 5, 4, 2), (2, 2, 2), (None, None, ("tensor",), None)),
        ((4, 5, 2, 2), (1, 2, 4), (("data", "fsdp"), None, None, None)),
        # The first axis has one device, and divides anything.
        ((3, 5, 2, 2), (1, 8, 1), (("data",), None, ("tensor",), None)),
    ],
)
def test_what_does_not_divide_is_split_by_fewer_axes_or_none(shape, sizes, expected):
    mesh = jax.sharding.AbstractMesh(sizes, ("data", "fsdp", "tensor"))
    with nn.logical_axis_rules(logical_rules()):
        assert spec_of(shape, NAMES, mesh) == jax.P(*expected)


def constraints(shape):
    found = jax.make_jaxpr(lambda x: constrained(x, NAMES))(jnp.zeros(shape))
    return [e.params["sharding"].spec for e in found.eqns]


def test_nothing_is_said_without_mesh_or_rules():
    assert constraints((1, 5, 4, 2)) == []
    with jax.set_mesh(mesh_of((2, 2, 2))):
        assert constraints((1, 5, 4, 2)) == []
        with nn.logical_axis_rules(logical_rules()):
            (one,) = constraints((1, 5, 4, 2))
            (four,) = constraints((4, 5, 4, 2))
            with_flax = jax.make_jaxpr(lambda x: nn.with_logical_constraint(x, NAMES))(
                jnp.zeros((4, 5, 4, 2))
            )
    assert one[0] is None
    assert four[0] == ("data", "fsdp")
    # As training has it.
    assert four == with_flax.eqns[0].params["sharding"].spec
