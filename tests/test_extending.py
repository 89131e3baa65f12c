"""The pages of `.docs/extending.md` apply to this commit, and their checks hold.

Each is tried in a copy of the package: its diff is applied, its check is run there.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = dict(
    re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", _text, flags=re.S | re.M)
    if (_text := (ROOT / ".docs/extending.md").read_text())
    else ()
)
# What a page may touch beside the files that it adds: the table of the architecture.
TOUCHED = {
    "A token-reduction method": set(),
    "A benchmark and its metric": set(),
    "An attention kernel": {"visor_jax/ops/attention.py"},
    "A layer kind": {
        "visor_jax/layer_plan.py",
        "visor_jax/models/decoder/decoder_layer.py",
    },
    "A size": set(),
    "A backbone": set(),
}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGES[page], flags=re.S | re.M)


def test_there_is_a_page_for_everything():
    assert set(PAGES) == set(TOUCHED)


@pytest.mark.parametrize("page", TOUCHED)
def test_page_applies_and_its_check_holds(page, tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git applies the diffs")
    shutil.copytree(
        ROOT / "visor_jax",
        tmp_path / "visor_jax",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    for diff in blocks(page, "diff"):
        apply_diff(diff, tmp_path, environment)
        changed = set(re.findall(r"^--- a/(\S+)", diff, flags=re.M))
        assert changed == TOUCHED[page]
    for check in blocks(page, "python"):
        done = subprocess.run(
            [sys.executable, "-c", check],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def apply_diff(diff, folder, environment):
    # Empty files have no hunk in a plain diff.
    for name in re.findall(r"^\+\+\+ b/(\S+)\n(?!@@)", diff, flags=re.M):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    diff = re.sub(r"^--- /dev/null\n\+\+\+ b/\S+\n(?!@@)", "", diff, flags=re.M)
    done = subprocess.run(
        ["git", "apply", "-"],
        input=diff,
        cwd=folder,
        env={**environment, "GIT_CEILING_DIRECTORIES": str(folder.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
