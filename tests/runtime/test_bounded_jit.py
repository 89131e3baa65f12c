import gc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visor_jax.runtime import bounded_jit as bounded
from visor_jax.runtime.bounded_jit import ProgramCount, bounded_jit
from visor_jax.runtime.device_cache import Held

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def few(monkeypatch):
    """Lets a process of this test keep eight programs; gives what was said of it."""
    said = []
    count = ProgramCount(8, said.append)
    monkeypatch.setattr(bounded, "_programs", Held(0, most=8, let_go=count.add))
    return count, said


@pytest.fixture
def compiled():
    """Gives a list that grows with every compilation."""
    names = []

    def listen(name, *_, **__):
        if name == COMPILED:
            names.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@bounded_jit(static_argnames=("times",))
def scaled(x, add=None, *, times):
    """Doc."""
    found = x * times
    return found if add is None else found + add["by"]


def maps():
    gc.collect()
    return Path("/proc/self/maps").read_bytes().count(b"\n")


def test_it_computes_and_compiles_as_jit_does(compiled):
    x = np.arange(3.0, dtype=np.float32)
    assert scaled(x, times=2).tolist() == [0, 2, 4]
    before = len(compiled)
    for _ in range(3):
        assert scaled(x + 1, times=2).tolist() == [2, 4, 6]
    assert len(compiled) == before
    assert scaled(x, {"by": x}, times=2).tolist() == [0, 3, 6]
    assert scaled(x, add={"by": x}, times=3).tolist() == [0, 4, 8]
    assert scaled(jnp.arange(4), times=2).dtype == jnp.int32
    assert scaled.cache_size() == 4
    assert (scaled.__name__, scaled.__doc__) == ("scaled", "Doc.")
    scaled.clear_cache()
    assert scaled.cache_size() == 0
    with pytest.raises(TypeError, match="times"):
        scaled(x, missing=1)


def test_the_longest_unused_programs_go(few, compiled):
    count, said = few
    for length in range(1, 9):
        scaled(np.zeros(length, np.float32), times=2)
    scaled(np.zeros(1, np.float32), times=2)
    before = len(compiled)
    scaled(np.zeros(9, np.float32), times=2)
    assert (count.let_go, scaled.cache_size(), len(compiled)) == (1, 8, before + 1)
    # Used since: still there. Not used since: compiled again.
    scaled(np.zeros(1, np.float32), times=2)
    assert len(compiled) == before + 1
    scaled(np.zeros(2, np.float32), times=2)
    assert len(compiled) == before + 2
    assert said[0].startswith("1 compiled programs were let go so far: 8 are kept")


def test_what_goes_leaves_no_memory_maps(few):
    """...of which a process on Linux may have 65,530 on the whole."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("the system does not say what is mapped")
    lengths = iter(range(100, 500))

    def some(number):
        for _ in range(number):
            scaled(np.zeros(next(lengths), np.float32), times=2)

    some(20)
    before = maps()
    some(150)
    count, said = few
    assert maps() < before + 40
    assert count.let_go == 162
    # 1, 2, 4, ..., 128: a process that never ends does not fill its log.
    assert len(said) == 8
