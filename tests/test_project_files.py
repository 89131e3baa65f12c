"""Hosted CI and the hooks before a commit do what is in `.ci`, and nothing else."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CI = ROOT / ".ci/run"
LMMS_EVAL = ROOT / ".ci/lmms_eval"
WORKFLOW = ROOT / ".github/workflows/ci.yml"
HOOKS = ROOT / ".pre-commit-config.yaml"


def lint_commands() -> set[str]:
    """Returns the commands of the linters in `.ci/run`."""
    (section,) = re.findall(r'^echo "== lint"\n(.*?)^echo', CI.read_text(), re.M | re.S)
    return {
        line for line in section.splitlines() if line.startswith(("ruff", "shellcheck"))
    }


def hooks() -> list[dict]:
    (local,) = yaml.safe_load(HOOKS.read_text())["repos"]
    assert local["repo"] == "local"
    return local["hooks"]


def command_of(hook: dict) -> str:
    """Returns what a hook runs, without the shell around it."""
    words = shlex.split(hook["entry"])
    return words[2] if words[:2] == ["bash", "-c"] else hook["entry"]


def test_hooks_are_the_lint_of_ci():
    assert len(lint_commands()) == 3
    assert {command_of(hook) for hook in hooks()} == lint_commands()


def test_hooks_need_no_other_tools_and_no_files():
    for hook in hooks():
        assert hook["language"] == "system"
        # The whole project is looked at, whatever is committed.
        assert hook["pass_filenames"] is False


def test_the_hook_for_scripts_wakes_up_for_every_script_it_checks():
    (hook,) = (each for each in hooks() if "files" in each)
    scripts = [CI, LMMS_EVAL, *(ROOT / "launch").glob("*.sh")]
    assert len(scripts) > 1
    for script in scripts:
        assert re.search(hook["files"], script.relative_to(ROOT).as_posix()), script
    assert not re.search(hook["files"], "visor_jax/train.py")


def test_the_workflow_runs_ci_on_the_oldest_python():
    workflow = yaml.safe_load(WORKFLOW.read_text())
    job, beside_lmms_eval = workflow["jobs"].values()
    for each, script in ((job, CI), (beside_lmms_eval, LMMS_EVAL)):
        runs = [step["run"] for step in each["steps"] if "run" in step]
        assert runs == [script.relative_to(ROOT).as_posix()]
        assert os.access(script, os.X_OK)
    versions = job["strategy"]["matrix"]["python"]
    # As texts: 3.10 as a number is 3.1.
    assert all(isinstance(version, str) for version in versions)
    found = sorted(tuple(map(int, version.split("."))) for version in versions)
    oldest = re.search(r'python_requires=">=(.+?)"', (ROOT / "setup.py").read_text())
    assert found[0] == tuple(map(int, oldest[1].split(".")))
    # `on` is a boolean to YAML.
    assert set(workflow[True]) == {"push", "pull_request"}


def test_scripts_of_ci_are_tracked_as_executable():
    listed = subprocess.run(
        ["git", "ls-files", "--stage", ".ci/run", ".ci/lmms_eval"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout")
    modes = [line.split()[0] for line in listed.stdout.splitlines()]
    assert modes == ["100755", "100755"]


def test_the_guide_for_contributors_names_the_same_lint_and_pytorch():
    guide = (ROOT / ".docs/contributing.md").read_text()
    assert all(command in guide for command in lint_commands())
    for script in (CI, LMMS_EVAL):
        (torch,) = re.findall(r"torch==[\d.]+", script.read_text())
        assert torch in guide


def test_what_is_installed_comes_from_the_checkout_and_from_no_index():
    # Whoever registered the name in an index would get to run code of theirs.
    written = [ROOT / "README.md", ROOT / "setup.py", *(ROOT / ".docs").glob("*.md")]
    for folder in ("visor_jax", "configs", "launch"):
        written += [f for f in (ROOT / folder).rglob("*") if f.suffix in (".py", ".sh")]
    named = re.compile(r"pip install[^`\n&#;]*\bvisor[_-]jax\b")
    found = {f.name: named.findall(f.read_text()) for f in written}
    assert len(written) > 150
    assert not {name: lines for name, lines in found.items() if lines}
    extras = re.compile(r"pip install -e '?\.\[([\w-]+)\]")
    wanted = {name for f in written for name in extras.findall(f.read_text())}
    declared = re.findall(
        r'^        "([\w-]+)": \[', (ROOT / "setup.py").read_text(), re.M
    )
    accelerators = {"tpu", "cuda12", "cuda13"}
    assert set(declared) <= wanted <= {*declared, *accelerators}
