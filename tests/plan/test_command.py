"""`python -m visor_jax.plan`: its tables and its errors."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from visor_jax.plan.mesh_flag import read_mesh
from visor_jax.sharding.mesh import MeshSettings

ROOT = Path(__file__).parents[2]
ON_EIGHT = ("--config=configs/universal.py:llava_ov_0p5b", "--mesh=1,8,1")


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "visor_jax.plan", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_preset_is_planned_for_every_device():
    done = command(
        "--config=configs/universal.py:llava_ov_0p5b",
        *("--mesh=8,4,1", "--batch_size=32", "--crops=10", "--text_tokens=1024"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "on 32 devices (data 8 x fsdp 4 x tensor 1), 1 of 32 rows" in done.stdout
    assert "a row: 10 crops, 8832 image tokens, 1024 text tokens" in done.stdout
    rows = {line[:34].strip(): line[34:].split() for line in done.stdout.splitlines()}
    assert rows["parameters (float32)"][0] == "0.910"
    assert rows["optimiser state"][0] == "1.820"
    total = float(rows["total at the fullest moment"][0])
    verdicts = {
        line.split()[0]: line.split(maxsplit=3)
        for line in done.stdout.splitlines()
        if line.startswith(("v", "H"))
    }
    assert list(verdicts) == ["v5e", "v6e", "H100", "v5p", "H200"]
    for _, memory, left, verdict in verdicts.values():
        assert float(left) == pytest.approx(float(memory) - total, abs=0.01)
        assert (float(left) < 0) == (verdict == "does not fit")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--mesh=1,8,1",), "--config=FILE is needed"),
        (
            ("--config=configs/universal.py:llava_ov_0p5b", "--mesh=8,3,1"),
            "128 rows does not split over the 24 devices",
        ),
        (
            (*ON_EIGHT, "--compile", "--topology=v5e:32x32"),
            "no slice that is known here. Give KIND:SIDES of: v5e: 1x1, 2x2,",
        ),
        (
            (*ON_EIGHT, "--compile", "--topology=v5e:2x2"),
            "--mesh=1,8,1 has 8 devices, and v5e:2x2 4 chips",
        ),
        ((*ON_EIGHT, "--topology=v5e:2x4"), "--topology=v5e:2x4 is for --compile"),
        ((*ON_EIGHT, "--json"), "--json needs --compile --topology=SLICE"),
    ],
)
def test_bad_values_end_with_one_line_and_code_2(arguments, complaint):
    done = command(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_the_mesh_is_three_numbers():
    assert read_mesh("8,4,1", MeshSettings()) == (8, 4, 1)
    assert read_mesh(None, MeshSettings(data=2, fsdp=4)) == (2, 4, 1)
    with pytest.raises(ValueError, match="add --mesh=DATA,FSDP,TENSOR"):
        read_mesh(None, MeshSettings())
    for wrong in ("8,4", "8,4,0", "8,-1,1", "a,b,c", ""):
        with pytest.raises(ValueError, match="three numbers of at least 1"):
            read_mesh(wrong, MeshSettings())


def has_compiler():
    try:
        return hasattr(importlib.import_module("libtpu"), "get_library_path")
    except ModuleNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="needs libtpu: pip install -e .[tpu]")
def test_the_real_step_is_compiled_for_chips_that_are_not_here():
    done = command(
        *("--config=configs/universal.py", "--mesh=1,4,1"),
        *("--compile", "--topology=v5e:2x2", "--json"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["chips"], found["hosts"], found["verdict"]) == (4, 1, "fits")
    assert found["conditionals"] >= found["demanded_conditionals"] > 0
    state = found["parameters"] + found["optimizer"] + found["batch"]
    # Laid out in tiles, and no less than the arrays themselves.
    assert state <= found["arguments"] < found["reserved"] < found["needed"]
    assert found["collectives"]["all-gather"]["count"] > 0
