"""Every command that README and documentation name exists and takes its flags."""

import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
from absl import flags

from tests import own_flags
from visor_jax.checkpoints import layout

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    *sorted((ROOT / ".docs").glob("*.md")),
    *sorted((ROOT / "configs").rglob("*.py")),
)
# Up to the end of a line that does not go on, or of words in backticks.
COMMAND = re.compile(r"python -m (visor_jax[\w.]*)((?:[^`\n\\]|\\\n)*)")
# What readers are to fill in, where a file must be there.
FILLED_IN = {"--config=...": "--config=configs/universal.py"}


def commands(text):
    """Returns (module, its arguments) of every command in a text."""
    return [
        (found[1], tuple(shlex.split(found[2].replace("\\\n", " "), comments=True)))
        for found in COMMAND.finditer(text)
    ]


DOCUMENTED = sorted({c for page in PAGES for c in commands(page.read_text())})


def module_of(name):
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"there is no {name}"
    if spec.submodule_search_locations is not None:
        name = f"{name}.__main__"
    return importlib.import_module(name)


def check(monkeypatch, name, arguments):
    """Reads the arguments as the command would: files of `--config` are loaded."""
    line = [name, *(FILLED_IN.get(each, each) for each in arguments)]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", line)
    module = module_of(name)
    with own_flags.defined(module):
        rest = flags.FLAGS(line)
        assert rest == [name] or hasattr(module, "ARGUMENTS")
        # A file that is not there is an error only once a value is asked for.
        config = getattr(flags.FLAGS, "config", None)
        assert config is None or config.items()


def test_commands_are_found_over_lines_and_in_sentences():
    text = """
python -m visor_jax.train --config=a.py:b \\
    --config.x="two words"   # why
Say `python -m visor_jax.flops --cache`, then `python -m pytest`.
"""
    assert commands(text) == [
        ("visor_jax.train", ("--config=a.py:b", "--config.x=two words")),
        ("visor_jax.flops", ("--cache",)),
    ]
    assert len(DOCUMENTED) > 25


@pytest.mark.parametrize(("name", "arguments"), DOCUMENTED)
def test_a_documented_command_exists_and_takes_its_flags(monkeypatch, name, arguments):
    check(monkeypatch, name, arguments)


@pytest.mark.parametrize(("name", "arguments"), DOCUMENTED)
def test_a_documented_folder_is_of_a_kind_that_is_written_to(name, arguments):
    folders = [a for a in arguments if a.startswith(("--workdir=", "--out="))]
    for flag, _, folder in (a.partition("=") for a in folders):
        # Runs alone may live in a bucket.
        if name != "visor_jax.train" or not layout.is_remote(folder):
            layout.check_local(folder, flag)


@pytest.mark.parametrize(
    "line",
    [
        "visor_jax.engine_time",
        "visor_jax.flops --caches",
        "visor_jax.flops cache",
        "visor_jax.train --config=configs/universal.py --config.loop.step=3",
        "visor_jax.train --config=configs/universe.py",
    ],
)
def test_a_wrong_command_is_caught(monkeypatch, line):
    name, *arguments = line.split()
    with pytest.raises((AssertionError, AttributeError, OSError, flags.Error)):
        check(monkeypatch, name, arguments)
