"""What is read of compiled attention and, with the compiler, what stands there."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from visor_jax.timing import tpu_attention
from visor_jax.timing.tpu_attention import chips, quadratic_arrays


def has_compiler():
    try:
        return hasattr(importlib.import_module("libtpu"), "get_library_path")
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize(
    ("shape", "counted"),
    [
        ("f32[1,14,1024,2944]{3,2,1,0}", 1),
        # Filled up, and the other way round.
        ("bf16[3072,14,1024]", 1),
        ("pred[1024,2944]", 1),
        ("bf16[1,14,64,2944]", 0),
        ("f32[6,1,14,512,512]", 0),
        ("bf16[1,1024,14,64]", 0),
        ("s32[]", 0),
        # Two arrays, neither of pairs.
        ("(bf16[1024], bf16[2944])", 0),
    ],
)
def test_arrays_of_all_pairs_are_counted(shape, counted):
    text = f"%x = {shape} fusion(f32[8]{{0}} %y)"
    assert quadratic_arrays(text, 1024, 2944) == counted
    assert quadratic_arrays(text, 2944, 1024) == counted


def test_scores_of_equal_lengths_are_told_from_the_tokens_of_a_batch():
    assert quadratic_arrays("f32[5,16,729,729]", 729, 729) == 1
    assert quadratic_arrays("bf16[5,768,16,72] bf16[40,729,16,72]", 729, 729) == 0


@pytest.mark.parametrize("found", [None, os])
def test_a_missing_compiler_is_told_with_the_remedy(monkeypatch, found):
    monkeypatch.setattr(tpu_attention, "_libtpu", lambda: found)
    with pytest.raises(ValueError, match=r"compiler for TPUs .*pip install -e '.\[tpu"):
        chips("v5e:2x4")


# One shape is compiled wherever there is the compiler; all of them take minutes.
FEW = "--only=SELF 3968, 14/2"


@pytest.mark.skipif(not has_compiler(), reason="needs libtpu: pip install -e .[tpu]")
@pytest.mark.parametrize(
    ("topology", "only", "shapes"),
    [
        ("v5e:2x4", FEW, 1),
        pytest.param("v5e:2x4", "--only=", 8, marks=pytest.mark.slow),
        pytest.param("v6e:2x4", "--only=", 8, marks=pytest.mark.slow),
    ],
)
def test_compiled_for_tpus_it_is_three_kernels_and_less_memory(topology, only, shapes):
    command = [sys.executable, "-m", tpu_attention.__name__, "--json", only]
    done = subprocess.run(
        [*command, "--kernels=tags,splash,blockwise", f"--topology={topology}"],
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    found = {(row["shape"], row["kernel"]): row for row in rows}
    names = {row["shape"] for row in rows}
    assert len(names) == shapes
    for name in names:
        ours, blockwise = found[name, "tags"], found[name, "blockwise"]
        for kernel in (ours, found[name, "splash"]):
            assert (kernel["calls"], kernel["quadratic"]) == (3, 0), kernel
        assert blockwise["calls"] == 0
        assert ours["temp MB"] <= blockwise["temp MB"], (ours, blockwise)
