"""Programs are let go where they have taken many memory maps, and only there."""

import jax
import jax.numpy as jnp
import pytest

from visor_jax.runtime import memory_maps as memory_maps_of_process
from visor_jax.runtime.memory_maps import has_room, let_programs_go, memory_maps

pytestmark = pytest.mark.skipif(
    not memory_maps(), reason="the system does not say how many memory maps there are"
)


def test_programs_go_where_there_are_many():
    traced = []

    @jax.jit
    def double(x):
        traced.append(x)
        return 2 * x

    for _ in range(2):
        double(jnp.ones(3))
    assert not let_programs_go(most=2**30)
    double(jnp.ones(3))
    assert len(traced) == 1
    assert let_programs_go(most=0)
    assert double(jnp.ones(3)).tolist() == [2.0] * 3
    assert len(traced) == 2


def test_few_programs_stay_by_default():
    assert not let_programs_go()


def test_there_is_room_until_two_thirds_are_taken(monkeypatch):
    for allowed, found in ((2 * memory_maps(), True), (memory_maps(), False)):
        monkeypatch.setattr(memory_maps_of_process, "_allowed", lambda n=allowed: n)
        assert has_room() == found
