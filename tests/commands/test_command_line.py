import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = '''"""A program on visor_jax.commands.command_line."""
import logging, time
from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags
from visor_jax.commands import command_line
from visor_jax.runtime.user_error import as_user_errors

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where to write.", required=True)
_WHAT = ["", "value", "file", "bug", "library", "wait"]
_DO = flags.DEFINE_enum("do", "", _WHAT, "What happens.")

def main(argv):
    with command_line.user_errors():
        if _DO.value == "value":
            raise ValueError("batch_size=0 must be at least 1")
        if _DO.value == "file":
            open(_WORKDIR.value + "/nothing.txt")
        config = _CONFIG.value
    if _DO.value == "library":
        with as_user_errors():
            raise ValueError("data.cache=/x cannot be written to")
    if _DO.value == "bug":
        raise ValueError("a bug")
    if _DO.value == "wait":
        print("waiting", flush=True)
        time.sleep(30)
    absl_logging.warning("noise")
    logging.getLogger("visor_jax.anything").info("a message of ours")
    print("lr", config.lr)

if __name__ == "__main__":
    command_line.run(main)
'''
_CONFIG = """
from ml_collections import ConfigDict

def get_config(preset="mini"):
    if preset == "bug":
        return ConfigDict().nothing
    if preset != "mini":
        raise ValueError(f"unknown preset {preset!r}: choose 'mini'")
    return ConfigDict({"lr": 0.5, "steps": 3, "model": {"width": 4}})
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    directory = tmp_path_factory.mktemp("program")
    (directory / "program.py").write_text(_PROGRAM)
    (directory / "config.py").write_text(_CONFIG)
    (directory / "broken.py").write_text("def get_config(:\n")
    return directory


def _start(directory, *arguments):
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "program.py", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(directory, *arguments):
    process = _start(directory, *arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


GOOD = ("--config=config.py", "--workdir=w")


def test_good_flags_run_and_only_our_messages_are_on_stderr(program):
    code, out, err = _run(program, *GOOD, "--config.lr=0.25")
    assert (code, out, err) == (0, "lr 0.25\n", "a message of ours\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--config=config.py",), "workdir"),
        ((*GOOD, "--wrkdir=x"), "wrkdir"),
        ((*GOOD, "--do=nothing"), "--do=nothing"),
        ((*GOOD, "--config.lr=abc"), "--config.lr=abc"),
        (
            (*GOOD, "--config.model.widht=8"),
            "config key: 'widht' Did you mean \"width\"",
        ),
        ((*GOOD, "--config.steps=1.5"), "--config.steps=1.5"),
        (("--config=absent.py", "--workdir=w"), "directory: 'absent.py'"),
        (
            ("--config=absent.py", "--config.lr=1", "--workdir=w"),
            "directory: 'absent.py'",
        ),
        (("--config=config.py:big", "--workdir=w"), "unknown preset 'big': choose"),
        (("--config=broken.py", "--workdir=w"), "broken.py, line 1"),
        ((*GOOD, "workdir=x"), "unexpected arguments ['workdir=x']"),
        ((*GOOD, "--do=value"), "batch_size=0 must be at least 1"),
        ((*GOOD, "--do=file"), "w/nothing.txt: No such file or directory"),
        ((*GOOD, "--do=library"), "data.cache=/x cannot be written to"),
    ],
)
def test_mistake_is_one_line_and_exit_code_2(program, arguments, expected):
    code, out, err = _run(program, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err


@pytest.mark.parametrize(
    "arguments", [(*GOOD, "--do=bug"), ("--config=config.py:bug", "--workdir=w")]
)
def test_bug_keeps_its_traceback(program, arguments):
    code, _, err = _run(program, *arguments)
    assert code == 1
    assert "Traceback" in err


def test_help_succeeds(program):
    code, out, err = _run(program, "--help")
    assert (code, err) == (0, "")
    assert "--workdir" in out


def test_ctrl_c_is_one_line_and_exit_code_130(program):
    # Children of what a shell runs in the background would be deaf to it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = _start(program, *GOOD, "--do=wait")
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "interrupted\n")
