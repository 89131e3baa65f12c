"""A disk without space ends a conversion in one line; it goes on where it was."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.conversations.llava_set import write_set
from visor_jax.data.conversations.manifest import read_manifest

ROOT = Path(__file__).parents[3]


def convert(folder, out, *, limit=resource.RLIM_INFINITY, processes=1):
    """Returns the ended command, none of whose files could grow beyond the limit."""
    command = [
        *(sys.executable, "-m", "visor_jax.convert.data"),
        *(f"--sources={folder}/train.json", f"--images={folder}/images"),
        *(f"--out={out}", "--rows_per_shard=40", f"--processes={processes}"),
    ]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)
        ),
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_the_last_line_names_the_file_and_the_next_run_goes_on(tmp_path, processes):
    write_set(tmp_path, 120)
    out = tmp_path / "set"
    ended = convert(tmp_path, out, limit=20_000, processes=processes)
    assert ended.returncode not in (0, -25), ended.stderr
    *_, last = ended.stderr.splitlines()
    assert last.startswith("error: ")
    assert "File too large" in last
    assert str(out) in last
    assert "Traceback" not in ended.stderr
    again = convert(tmp_path, out, processes=processes)
    assert again.returncode == 0, again.stderr
    whole = convert(tmp_path, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    found, expected = read_manifest(out), read_manifest(tmp_path / "whole")
    assert found.shards == expected.shards
