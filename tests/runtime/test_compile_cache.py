"""Compiled programs on disk: which folder, how much, and what is wrong with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from visor_jax.runtime.compile_cache import describe_kept, user_folder

ROOT = Path(__file__).parents[2]
# A command that compiles one program and says what jax was told.
PROGRAM = """
import json, warnings, jax
from visor_jax.commands import command_line

def main(argv):
    x = jax.numpy.arange(3.0)
    for n in range({count}):
        jax.jit(lambda x: x * n + 1)(x)
    print(json.dumps([
        jax.config.jax_compilation_cache_dir,
        jax.config.jax_compilation_cache_max_size,
        jax.config.jax_enable_compilation_cache,
    ]))

if __name__ == "__main__":
    command_line.run(main)
"""


@pytest.fixture
def run(tmp_path):
    """Gives a function that runs the command: what jax was told, and stderr."""

    def started(*arguments, count=1, **variables):
        program = tmp_path / "program.py"
        program.write_text(PROGRAM.replace("{count}", str(count)))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
        environment |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home")}
        environment.pop("XDG_CACHE_HOME", None)
        environment |= {"JAX_PLATFORMS": "cpu", **variables}
        done = subprocess.run(
            [sys.executable, program, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    return started


def programs(folder):
    return {path.name for path in folder.glob("*-cache")}


def test_commands_keep_programs_in_the_users_cache_folder(run, tmp_path):
    (folder, most, enabled), said = run()
    assert Path(folder).is_relative_to(tmp_path / "home/.cache/visor_jax/programs")
    assert (most, enabled, said) == (2_000_000_000, True, "")
    (folder, *_), _ = run(XDG_CACHE_HOME=str(tmp_path / "xdg"))
    assert Path(folder).is_relative_to(tmp_path / "xdg/visor_jax")
    # What is no absolute path is none, says the standard.
    assert user_folder({"XDG_CACHE_HOME": "here"}).is_relative_to(Path.home())


def test_flags_and_the_environment_name_another_folder_or_none(run, tmp_path):
    (folder, *_), _ = run("--compilation_cache=there")
    assert folder == str(tmp_path / "there")
    assert programs(tmp_path / "there")
    of_jax = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax")}
    assert run(**of_jax)[0] == [of_jax["JAX_COMPILATION_CACHE_DIR"], -1, True]
    (folder, *_), _ = run("--compilation_cache=there", **of_jax)
    assert folder == str(tmp_path / "there")
    for off in ({}, of_jax):
        assert run("--compilation_cache=off", **off)[0][2] is False
    assert run(JAX_ENABLE_COMPILATION_CACHE="false")[0] == [None, -1, False]
    (_, most, _), _ = run(JAX_COMPILATION_CACHE_MAX_SIZE="12345")
    assert most == 12345


def test_the_longest_unused_go_where_programs_take_too_much(run, tmp_path):
    flag, folder = "--compilation_cache=there", tmp_path / "there"
    run(flag, count=3)
    size = max(path.stat().st_size for path in folder.glob("*-cache"))
    most = 3 * size
    run(flag, count=12, JAX_COMPILATION_CACHE_MAX_SIZE=str(most))
    left = list(folder.glob("*-cache"))
    assert left
    assert sum(path.stat().st_size for path in left) <= most


@pytest.mark.parametrize("place", ["/proc/1/nothing", "/dev/null/programs"])
def test_a_folder_that_cannot_be_used_is_one_warning(run, place):
    (folder, *_), said = run(f"--compilation_cache={place}", count=3)
    assert folder is None
    (line,) = said.splitlines()
    assert line.startswith(f"warning: compiled programs are not kept in {place} (")
    assert "--compilation_cache=DIR names another" in line


def test_faults_that_come_later_are_one_warning(run, tmp_path):
    """A damaged program, and one that cannot be written, compile again."""
    flag, folder = "--compilation_cache=there", tmp_path / "there"
    run(flag, count=4)
    for path in folder.glob("*-cache"):
        path.write_bytes(path.read_bytes()[:20])
    _, said = run(flag, count=4)
    (line,) = said.splitlines()
    assert line.startswith("warning: Error reading persistent compilation cache")
    assert line.endswith("programs are compiled instead")


def test_what_a_killed_process_left_is_removed(run, tmp_path):
    """jax notes last that a program is there, and would fail at one without note."""
    flag, folder = "--compilation_cache=there", tmp_path / "there"
    run(flag, count=3)
    whole = programs(folder)
    (name, *_) = whole
    (folder / name).write_bytes(b"half")
    (folder / name.replace("-cache", "-atime")).unlink()
    _, said = run(flag, count=3)
    assert said == ""
    assert programs(folder) == whole
    assert (folder / name).read_bytes() != b"half"


def test_processes_at_once_share_a_folder(tmp_path, run):
    """...and hold its lock only as long as they read or write."""
    import concurrent.futures

    flag, folder = "--compilation_cache=there", tmp_path / "there"
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: run(flag, count=6), range(3)))
    assert [said for _, said in found] == [""] * 3
    assert len(programs(folder)) >= 6


def test_neither_an_import_nor_loading_changes_what_jax_was_told(tmp_path):
    code = (
        "import jax; before = dict(jax.config.values);"
        "import visor_jax, visor_jax.inference.loading.load, visor_jax.train;"
        "import visor_jax.answer, visor_jax.commands.command_line;"
        "assert dict(jax.config.values) == before;"
        "assert jax.config.jax_compilation_cache_dir is None"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_what_is_kept_is_said(tmp_path, monkeypatch):
    def told(**values):
        for name, value in values.items():
            monkeypatch.setattr(type(jax.config), name, value, raising=False)
        return describe_kept()

    (tmp_path / "one-cache").touch()
    (tmp_path / "one-atime").touch()
    folder = {"jax_compilation_cache_dir": str(tmp_path)}
    kept = told(**folder, jax_enable_compilation_cache=True)
    assert kept == f"compiled programs in {tmp_path} (1 so far)"
    not_kept = "compiled programs are not kept"
    assert told(jax_enable_compilation_cache=False) == not_kept
    nowhere = told(jax_compilation_cache_dir=None, jax_enable_compilation_cache=True)
    assert nowhere == not_kept


def test_a_bucket_keeps_no_programs(run, tmp_path):
    (folder, _, _), said = run("--compilation_cache=gs://bucket/programs")
    assert folder is None
    assert "not kept in gs://bucket/programs" in said
    assert not list(tmp_path.glob("gs*"))
