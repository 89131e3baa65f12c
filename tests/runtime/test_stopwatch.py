"""The stopwatch: whose turn it is, which runs count, and when a run has ended."""

import itertools
import threading
import time

import jax
import numpy as np
import pytest

from visor_jax.runtime import stopwatch


@pytest.fixture
def lasting(monkeypatch):
    """Makes programs that take as many seconds as they say, on a clock of their own."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def program(ran, name, durations):
        durations = iter(durations)

        def run():
            ran.append(name)
            now[0] += next(durations)

        return run

    return program


def test_programs_take_turns_and_the_first_rounds_do_not_count(lasting):
    ran = []
    programs = {
        "a": lasting(ran, "a", [50, 60, 1, 2, 9]),
        "b": lasting(ran, "b", [70, 80, 5, 3, 4]),
    }
    found = stopwatch.take_turns(programs, runs=3, warm_up=2)
    assert "".join(ran) == "ababababab"
    assert found == {"a": [1, 2, 9], "b": [5, 3, 4]}


def test_there_and_back_no_program_always_follows_the_same_one(lasting):
    ran = []
    programs = {n: lasting(ran, n, itertools.count(1)) for n in "abc"}
    found = stopwatch.take_turns(programs, runs=2, there_and_back=True)
    assert "".join(ran) == "abccbaabc"
    assert list(found) == ["a", "b", "c"]
    assert found["a"] == found["c"] == [2, 3]


def test_medians_are_those_of_the_counted_runs(lasting):
    programs = {
        "a": lasting([], "a", [100, 1, 30, 2]),
        "b": lasting([], "b", [100, 4, 5, 60]),
    }
    assert stopwatch.median_seconds(programs, runs=3) == {"a": 2, "b": 5}


def test_a_run_lasts_until_its_arrays_are_there():
    waited = threading.Event()

    def slowly(x):
        time.sleep(0.2)
        waited.set()
        return x

    shape = jax.ShapeDtypeStruct((), np.float32)
    program = jax.jit(lambda: jax.pure_callback(slowly, shape, np.float32(1)))
    (seconds,) = stopwatch.take_turns({"a": program}, runs=1, warm_up=0)["a"]
    assert waited.is_set()
    assert seconds >= 0.2


def test_no_run_is_no_time():
    with pytest.raises(ValueError, match="runs=0"):
        stopwatch.take_turns({}, runs=0)
