"""`python -m visor_jax.timing.starts`, of a command that the test wrote."""

import os
import time

import pytest

from visor_jax.timing.counted_start import Program
from visor_jax.timing.starts import Start, table, time_starts

# Compiles one program that is kept and, in its second start alone, one more.
COMMAND = """\
import sys, time
number, kept = sys.argv[1], sys.argv[-1].partition("=")[2]
import jax
jax.config.update("jax_compilation_cache_dir", kept)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
def step(x):
    return x * 2 + 1
def other(x):
    return x * 3 + 1
jax.jit(step)(4.0)
if number == "2":
    jax.jit(other)(4.0)
print("begun", file=sys.stderr, flush=True)
time.sleep(0.5)
print("step 1", flush=True)
time.sleep(0.5)
sys.exit("no such thing" if number == "9" else 0)
"""


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    (folder / "a_command.py").write_text(COMMAND)
    before = os.environ.get("PYTHONPATH")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), before])))
        yield


def names(start: Start, *, found: bool) -> set[str]:
    return {each.name for each in start.programs if each.found == found}


def test_a_start_finds_what_another_compiled_and_compiles_the_rest():
    began = time.perf_counter()
    first, second = time_starts(["a_command", "{start}"], 2)
    assert first.whole + second.whole <= time.perf_counter() - began
    assert any("step" in each for each in names(first, found=False))
    assert not names(first, found=True)
    assert names(second, found=True) == names(first, found=False)
    (compiled,) = names(second, found=False)
    assert "other" in compiled
    for start in (first, second):
        # Its word on stdout comes half a second before its end.
        assert 0.4 < start.whole - start.first < start.whole - 0.5
        assert start.processor > 0.1


def test_the_first_word_may_be_on_either_stream_or_never_come():
    (start,) = time_starts(["a_command", "1"], 1, until="^beg.n")
    assert start.whole - start.first > 0.9
    (start,) = time_starts(["a_command", "1"], 1, until="step 2")
    assert start.first is None


def test_what_cannot_be_timed_is_named():
    with pytest.raises(ValueError, match=r"a_command ended with code 1:(.|\n)*no such"):
        time_starts(["a_command", "9"], 2)
    with pytest.raises(ValueError, match=r"--until='\(' is no regular expression"):
        time_starts(["a_command", "1"], 1, until="(")


def test_the_table_says_what_was_compiled_again():
    programs = [
        Program("jit(step)", 2.5, True),
        Program("jit(small)", 0.2, False),
        Program("jit(large)", 0.3, False),
    ]
    start = Start(first=None, whole=3.0, processor=2.0, programs=programs)
    lines = table([start]).splitlines()
    expected = ["1", "-", "3.00 s", "2.0 s", "1", "2 in 0.5 s", "jit(large) 0.30 s"]
    assert [each.strip() for each in lines[1].split("  ") if each.strip()] == expected
