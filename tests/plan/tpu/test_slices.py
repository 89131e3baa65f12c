"""Slices of TPUs: the known ones, their chips, and what does not fit them."""

import pytest

from visor_jax.plan.tpu import slices as slices_module
from visor_jax.plan.tpu.slices import SLICES, Slices, check_compiler


@pytest.mark.parametrize(
    ("topology", "count", "chips", "hosts"),
    [
        ("v5e:1x1", 1, 1, 1),
        ("v5e:2x4", 1, 8, 2),
        ("v5e:16x16", 1, 256, 64),
        ("v6e:2x2", 3, 12, 3),
        ("v5p:8x8x16", 1, 1024, 256),
    ],
)
def test_a_slice_has_chips_and_hosts(topology, count, chips, hosts):
    found = Slices(topology=topology, count=count)
    assert (found.chips, found.hosts) == (chips, hosts)
    assert found.device.name == found.kind == topology.split(":")[0]
    found.check_mesh((1, chips, 1))
    with pytest.raises(ValueError, match=rf"--mesh=1,{chips + 1},1 has {chips + 1}"):
        found.check_mesh((1, chips + 1, 1))


@pytest.mark.parametrize(
    "name", ["v5e:32x32", "v5e:3x3", "v9:2x2", "v5p:4x4", "", "v5e"]
)
def test_an_unknown_slice_is_answered_with_the_known_ones(name):
    with pytest.raises(ValueError, match="is no slice that is known here") as raised:
        Slices(topology=name)
    for each in SLICES["v5p"]:
        assert each in str(raised.value)
    with pytest.raises(ValueError, match="--slices=0 must be at least 1"):
        Slices(topology="v5e:2x2", count=0)


@pytest.mark.parametrize("found", [None, pytest])
def test_a_missing_compiler_is_told_with_the_remedy(monkeypatch, found):
    monkeypatch.setattr(slices_module, "_libtpu", lambda: found)
    with pytest.raises(ValueError, match=r"not installed: pip install -e '\.\[tpu\]'"):
        check_compiler()
