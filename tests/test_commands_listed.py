"""`python -m visor_jax` names every command, and loads next to nothing."""

import subprocess
import sys

from tests.commands.test_help_text import COMMANDS, HEAVY


def test_every_command_has_a_line():
    arguments = [sys.executable, "-X", "importtime", "-m", "visor_jax"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0
    lines = dict(
        line.removeprefix("python -m ").split(maxsplit=1)
        for line in done.stdout.splitlines()
    )
    assert sorted(lines) == sorted(set(COMMANDS) - {"visor_jax"})
    assert all(text.endswith((".", "?")) for text in lines.values())
    assert lines["visor_jax.generate"].startswith("Answers one prompt")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not HEAVY & loaded
