"""The pages of `.docs/extending.md` apply to this commit, and their checks hold.

Each is tried in a copy of package and tests: its diff is applied, and its check is run
there, with the tests that find what it adds.
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
    "A token-reduction method": {"visor_jax/token_reduction/registry.py"},
    "A benchmark and its metric": set(),
    "An attention kernel": {"visor_jax/ops/attention.py"},
    "A layer kind": {
        "visor_jax/layer_plan.py",
        "visor_jax/models/decoder/decoder_layer.py",
    },
    "A size": {"visor_jax/models/variants.py", "configs/common.py"},
    "A backbone": {"visor_jax/checkpoints/hf/backbones.py"},
}
# Tests that find what a page adds: (arguments of pytest, how many run at least).
FOUND_BY = {
    "An attention kernel": (("tests/ops/kernels/test_contract.py", "-k", "wide"), 7),
    "A size": (("tests/models/test_config.py", "-k", "llava_ov_1p5b"), 2),
    "A backbone": (("tests/checkpoints/hf/test_read_config.py", "-k", "backbone"), 1),
}
# Compares with transformers, which needs PyTorch.
PARITY = {"A backbone"}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGES[page], flags=re.S | re.M)


def test_there_is_a_page_for_everything():
    assert set(PAGES) == set(TOUCHED)


@pytest.fixture
def copy(tmp_path):
    """Returns a folder with the package, its configurations and its tests."""
    for name in ("visor_jax", "configs", "tests"):
        shutil.copytree(
            ROOT / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    shutil.copy(ROOT / ".pytest.ini", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.parity] * (page in PARITY))
        for page in TOUCHED
    ],
)
def test_page_applies_and_its_check_holds(page, copy):
    if shutil.which("git") is None:
        pytest.skip("git applies the diffs")
    (diff,), (check,) = blocks(page, "diff"), blocks(page, "python")
    apply_diff(diff, copy)
    assert set(re.findall(r"^--- a/(\S+)", diff, flags=re.M)) == TOUCHED[page]
    run(copy, "-c", check)
    if page in FOUND_BY:
        arguments, count = FOUND_BY[page]
        said = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
        passed = re.search(r"(\d+) passed", said)
        assert passed, said
        assert int(passed[1]) >= count, said


def run(folder, *arguments):
    """Returns what Python prints there, with the package of that folder."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_hunks_of_every_page_are_as_long_as_they_say():
    """git leaves out, without a word, what stands behind the last hunk's length."""
    hunk = r"^@@ -\d+,(\d+) \+\d+,(\d+) @@\n((?:[ +-](?!-- |\+\+ ).*\n)+)"
    found = [
        each
        for page in TOUCHED
        for diff in blocks(page, "diff")
        for each in re.findall(hunk, diff, flags=re.M)
    ]
    assert len(found) > 10
    for old, new, body in found:
        kinds = [line[0] for line in body.splitlines()]
        assert (int(old), int(new)) == (
            len(kinds) - kinds.count("+"),
            len(kinds) - kinds.count("-"),
        ), body


def apply_diff(diff, folder):
    # Empty files have no hunk in a plain diff.
    for name in re.findall(r"^\+\+\+ b/(\S+)\n(?!@@)", diff, flags=re.M):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    diff = re.sub(r"^--- /dev/null\n\+\+\+ b/\S+\n(?!@@)", "", diff, flags=re.M)
    done = subprocess.run(
        ["git", "apply", "-"],
        input=diff,
        cwd=folder,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
