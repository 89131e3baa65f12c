"""`--help` of every command: its usage and all of its flags, at once."""

import importlib
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests import own_flags

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for file in (ROOT / "visor_jax").rglob("*.py")
    if "command_line.run(main)" in file.read_text() and file.parent.name != "commands"
)
# What takes long to load, here or where there is an accelerator.
HEAVY = {"jax", "flax", "orbax", "grain", "transformers", "matplotlib", "scipy"}


def seconds_of(*arguments):
    """Returns (CPU seconds, stdout, stderr) of Python with these arguments."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, done.stdout, done.stderr


@pytest.fixture(scope="module")
def least():
    """CPU seconds of what every command needs."""
    return min(seconds_of("-c", "import absl.flags, numpy")[0] for _ in range(3))


def test_all_commands_are_found():
    assert {"visor_jax.train", "visor_jax.flops", "visor_jax.show.pages"} < set(
        COMMANDS
    )
    assert len(COMMANDS) >= 17


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_the_usage_and_all_flags_at_once(command, least):
    used, printed, imported = seconds_of("-X", "importtime", "-m", command, "--help")
    assert f"python -m {command} " in printed
    package = not (ROOT / command.replace(".", "/")).with_suffix(".py").exists()
    module = importlib.import_module(f"{command}.__main__" if package else command)
    with own_flags.defined(module) as names:
        for name in names:
            assert re.search(rf"^  --(\[no\])?{name}: ", printed, re.M), printed
    loaded = {line.rpartition("|")[2].strip() for line in imported.splitlines()}
    assert not HEAVY & loaded
    # Some 0.1 s; with the libraries it takes tens of times as long.
    assert used < 4 * least + 0.3
