import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = '''"""A program on visor_jax.commands.command_line.

    python program.py --config=config.py --workdir=w
"""
import errno, logging, os, sys, time
from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags
from visor_jax.commands import command_line
from visor_jax.runtime.user_error import as_user_errors

def define_flags():
    config_flags.DEFINE_config_file("config", lock_config=True)
    flags.DEFINE_string("workdir", None, "Where to write.", required=True)
    flags.DEFINE_string("do", "", "What happens.")
    flags.DEFINE_multi_string("word", [], "Printed.")
    flags.DEFINE_bool("quick", False, "In no time.")

if __name__ == "__main__":
    command_line.begin(define_flags)

print("loaded", file=open("loaded.txt", "w"))

def main(argv):
    options = flags.FLAGS
    with command_line.user_errors():
        if options.do == "value":
            raise ValueError("batch_size=0 must be at least 1")
        if options.do == "file":
            open(options.workdir + "/nothing.txt")
        config = options.config
    if options.do == "library":
        with as_user_errors():
            raise ValueError("data.cache=/x cannot be written to")
    if options.do == "bug":
        raise ValueError("a bug")
    if options.do == "wait":
        print("waiting", flush=True)
        time.sleep(30)
    if options.do == "lines":
        for number in range(100_000):
            print("line", number, file=sys.stderr if options.quick else sys.stdout)
    if options.do in errno.errorcode.values():
        code = getattr(errno, options.do)
        raise RuntimeError("around") from OSError(code, os.strerror(code), "a.jsonl")
    if options.do == "native":
        raise RuntimeError("INTERNAL: writing /w/x: No space left on device [5]")
    if options.do == "pipe":
        raise BrokenPipeError(errno.EPIPE, "a worker has gone")
    if options.do == "devices":
        import jax
        print(len(jax.devices()))
    if options.do == "memory":
        import jax.numpy as jnp
        jnp.zeros((1 << 20, 1 << 20)).block_until_ready()
    absl_logging.warning("noise")
    logging.getLogger("visor_jax.anything").info("a message of ours")
    print("lr", config.lr, *options.word)

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


def _start(directory, *arguments, **environment):
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "program.py", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": root, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(directory, *arguments, **environment):
    process = _start(directory, *arguments, **environment)
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
        ((*GOOD, "--quick=perhaps"), "--quick=perhaps"),
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


def test_help_is_the_usage_and_all_flags(program):
    code, out, err = _run(program, "--help")
    assert (code, err) == (0, "")
    assert out.startswith("A program on visor_jax.commands.command_line.\n")
    assert "python program.py --config=config.py --workdir=w\n" in out
    for line in (
        "  --workdir: Where to write. (needed)",
        "  --[no]quick: In no time. (default false)",
        "  --config:",
        "  --word: Printed.",
    ):
        assert f"\n{line}" in out


@pytest.mark.parametrize("asked", ["--help", "--helpfull", "--wrkdir=x", "--config=x"])
def test_help_and_mistakes_come_before_the_libraries(program, asked):
    (program / "loaded.txt").unlink(missing_ok=True)
    code, _, _ = _run(program, "--workdir=w", asked)
    assert code == (0 if "help" in asked else 2)
    assert not (program / "loaded.txt").exists()


def test_flags_are_read_once(program):
    assert _run(program, *GOOD, "--word=a", "--word=b")[1] == "lr 0.5 a b\n"


def test_what_an_encoding_lacks_is_shown_as_escapes(program):
    code, out, _ = _run(program, *GOOD, "--word=→é", PYTHONIOENCODING="ascii")
    assert (code, out) == (0, "lr 0.5 \\u2192\\xe9\n")


@pytest.mark.parametrize("arguments", [("--do=lines",), ("--help",), ()])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_leaves_ends_it_quietly(program, arguments, stream):
    given = (*GOOD, *arguments, "--quick" if stream == "stderr" else "--noquick")
    readable, writable = os.pipe()
    os.close(readable)
    other = "stderr" if stream == "stdout" else "stdout"
    done = subprocess.run(
        [sys.executable, "program.py", *given],
        cwd=program,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        **{stream: writable, other: subprocess.PIPE},
        timeout=60,
    )
    os.close(writable)
    if stream == "stderr" and arguments == ("--help",):
        assert done.returncode == 0
    else:
        assert done.returncode == 141
    shown = done.stderr if stream == "stdout" else b""
    assert b"Broken pipe" not in shown
    assert b"Traceback" not in shown
    assert b"Exception" not in shown


def test_another_broken_pipe_keeps_its_traceback(program):
    code, _, err = _run(program, *GOOD, "--do=pipe")
    assert code == 1
    assert "Traceback" in err
    assert "a worker has gone" in err


@pytest.mark.parametrize("name", ["ENOSPC", "EFBIG", "EDQUOT", "EROFS", "EIO"])
def test_a_disk_that_takes_no_more_is_one_line_with_the_file(program, name):
    code, out, err = _run(program, *GOOD, f"--do={name}")
    said = os.strerror(getattr(errno, name))
    assert (code, out) == (1, "")
    assert err.startswith(f"error: a.jsonl: {said}: ")
    assert err.count("\n") == 1
    assert "run the same command again" in err


def test_a_full_disk_of_native_code_is_one_line(program):
    code, _, err = _run(program, *GOOD, "--do=native")
    assert (code, err.count("\n")) == (1, 1)
    assert "/w/x: No space left on device" in err


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_platform_that_is_not_here_is_one_line(program, platform):
    code, _, err = _run(program, *GOOD, "--do=devices", JAX_PLATFORMS=platform)
    last = err.splitlines()[-1]
    assert code == 2
    assert last.startswith(f"error: jax cannot use JAX_PLATFORMS={platform} here")
    assert "JAX_PLATFORMS=cpu" in last
    assert "Traceback" not in err


def test_a_full_device_is_one_line(program):
    code, _, err = _run(program, *GOOD, "--do=memory", JAX_PLATFORMS="cpu")
    assert (code, err.count("\n")) == (1, 1)
    assert "4398046511104 bytes" in err
    assert "data.batch_size" in err


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
