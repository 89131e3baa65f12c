"""Of two commands that write one place the second says who the first is, and leaves."""

import json
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest

from tests import own_flags
from visor_jax import answer, evaluate, sweep, train
from visor_jax.convert import __main__ as convert
from visor_jax.convert import data
from visor_jax.runtime.ownership import TakenError, owned_file, owned_folder
from visor_jax.timing.accelerator import __main__ as accelerator

ROOT = Path(__file__).parents[2]


@pytest.fixture
def nothing_runs(monkeypatch, tmp_path):
    """What is read before a place is owned is at hand, and no network runs."""
    monkeypatch.setattr(evaluate, "_prepare", lambda *_: ([], tmp_path / "place"))
    network = types.SimpleNamespace(config=types.SimpleNamespace(plan=None))
    monkeypatch.setattr(sweep, "_prepare", lambda *_: (network, None, tmp_path))
    for command, name in ((evaluate, "_evaluate"), (sweep, "sweep")):
        monkeypatch.setattr(command, name, None)
    monkeypatch.setattr(accelerator, "measure", None)


@pytest.mark.parametrize(
    ("command", "owned", "place", "arguments"),
    [
        (answer, owned_file, "a", ("--checkpoint=gone", "--input=in", "--output=a")),
        (data, owned_folder, "a", ("--sources=train.json", "--out=a")),
        (convert, owned_folder, "a", ("--from_hf=gone", "--out=a")),
        (convert, owned_folder, "a", ("--checkpoint=gone", "--to_hf=a")),
        (
            train,
            owned_folder,
            "a",
            (f"--config={ROOT}/configs/universal.py", "--workdir=a"),
        ),
        (evaluate, owned_folder, "place", ("--checkpoint=gone",)),
        (sweep, owned_file, "viable.json", ("--checkpoint=gone",)),
        (accelerator, owned_folder, "a", ("--out=a",)),
    ],
)
def test_the_second_says_who_writes_and_leaves(
    command, owned, place, arguments, tmp_path, monkeypatch, capsys, nothing_runs
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.json").write_text("[]")
    (tmp_path / "in").write_text('{"id": 1, "prompt": "Why?"}\n')
    with owned(tmp_path / place):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises((SystemExit, TakenError)) as ended:
            own_flags.call(command, *arguments)
        if ended.type is SystemExit:
            assert ended.value.code == 2
        said = capsys.readouterr().err + str(ended.value)
        assert f"{socket.gethostname()}, pid {os.getpid()}, since" in said
        assert "give another --" in said or "choose another --" in said
        assert sorted(tmp_path.rglob("*")) == before


def test_a_command_ends_with_one_line_and_code_2(tmp_path):
    (tmp_path / "train.json").write_text("[]")
    command = [sys.executable, "-m", "visor_jax.convert.data"]
    command += [f"--sources={tmp_path}/train.json", f"--out={tmp_path}/set"]
    with owned_folder(tmp_path / "set"):
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/set is being written by another process")
    assert line.endswith("give another --out.")


def test_two_conversions_at_once_are_one(tmp_path):
    """Before, both wrote, and one ended over files that the other had taken away."""
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
    entries = [{"id": str(i), "conversations": turns} for i in range(400)]
    (tmp_path / "train.json").write_text(json.dumps(entries))
    command = [sys.executable, "-m", "visor_jax.convert.data", "--rows_per_shard=2"]
    command += [f"--sources={tmp_path}/train.json", f"--out={tmp_path}/set"]
    both = [
        subprocess.Popen(
            [*command, "--processes=1"], stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(2)
    ]
    said = [each.communicate()[1] for each in both]
    assert sorted(each.returncode for each in both) == [0, 2], said
    refused = said[both[0].returncode == 0]
    # Whoever comes later finds it at work, or done.
    assert "is being written by" in refused or "holds a converted data set" in refused
    manifest = json.loads((tmp_path / "set/manifest.json").read_text())
    assert manifest["samples"] == 400
