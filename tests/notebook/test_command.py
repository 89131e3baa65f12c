"""A command in a cell prints its lines, takes variables, and says that it failed."""

import pytest

from visor_jax.notebook.command import CommandFailed, run_command

PROGRAM = "tests.notebook.says_its_flags"


def test_lines_flags_and_variables_arrive(capfd, monkeypatch):
    monkeypatch.setenv("KEPT", "old")
    run_command(PROGRAM, "--a=1", "b", GIVEN="new")
    # No terminal, in which progress would be drawn; and a session of its own.
    assert capfd.readouterr().out.splitlines() == [
        "flags --a=1 b",
        "GIVEN new, KEPT old",
        "terminals 0",
        "and an error",
    ]


def test_a_command_that_fails_is_an_error(capfd):
    with pytest.raises(CommandFailed, match=f"{PROGRAM} ended with code 3"):
        run_command(PROGRAM, "fail")
    assert "and an error" in capfd.readouterr().out
