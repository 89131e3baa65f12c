"""A file that is replaced: the old content or the new one, whole, and nothing else."""

import errno
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.limited_files import limited_files
from visor_jax.runtime import atomic_write


def test_the_new_content_takes_the_place_of_the_old(tmp_path):
    file = tmp_path / "facts.json"
    file.write_text("old")
    atomic_write.write_json(file, {"né": [1, 2]})
    assert json.loads(file.read_text()) == {"né": [1, 2]}
    atomic_write.write_text(file, "né\n")
    assert file.read_bytes() == b"n\xc3\xa9\n"
    atomic_write.write_bytes(file, b"\x00\xff")
    assert file.read_bytes() == b"\x00\xff"
    atomic_write.write_file(file, lambda stream: np.save(stream, np.arange(3)))
    np.testing.assert_array_equal(np.load(file), [0, 1, 2])
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "write",
    [
        lambda stream: stream.write(bytes(10_000)),
        lambda stream: np.save(stream, np.zeros(2_000)),
        lambda stream: np.savez(stream, a=np.zeros(2_000)),
    ],
)
def test_a_full_disk_is_an_error_with_the_files_own_name(tmp_path, write):
    file = tmp_path / "facts.json"
    file.write_text("old")
    with limited_files(4096), pytest.raises(OSError, match="File too large") as error:
        atomic_write.write_file(file, write)
    assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(file))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_writer_that_raises_leaves_the_old_content_and_nothing_else(tmp_path):
    file = tmp_path / "facts.json"
    file.write_text("old")

    def fails(stream):
        stream.write(b"half of the n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write.write_file(file, fails)
    with pytest.raises(TypeError):
        atomic_write.write_json(file, object())
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_content_is_on_the_disk_before_the_file_has_its_name(tmp_path, monkeypatch):
    file, events = tmp_path / "facts", []
    sync, replace = os.fsync, os.replace

    def record(event, call):
        def recorded(*arguments):
            events.append((event, file.exists()))
            return call(*arguments)

        return recorded

    monkeypatch.setattr(os, "fsync", record("sync", sync))
    monkeypatch.setattr(os, "replace", record("replace", replace))
    atomic_write.write_text(file, "new")
    # The file's content, its name, and the folder that holds the name.
    assert events == [("sync", False), ("replace", False), ("sync", True)]


def test_threads_that_write_one_file_do_not_meet(tmp_path, monkeypatch):
    file, meeting, replace = tmp_path / "facts", threading.Barrier(2), os.replace

    def together(*arguments):
        meeting.wait(timeout=30)
        replace(*arguments)

    monkeypatch.setattr(os, "replace", together)
    contents = [b"a" * 5000, b"b" * 9000]
    failed = []

    def write(content):
        try:
            atomic_write.write_bytes(file, content)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=[each]) for each in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert file.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [file]


_KILLED = """
import os, sys
from visor_jax.runtime import atomic_write

def write(stream):
    stream.write(b"half")
    stream.flush()
    os._exit(9)

atomic_write.write_file(sys.argv[1], write)
"""


def test_what_a_killed_writer_left_of_a_file_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "facts").write_text("old")
    (tmp_path / ".facts.json").write_text("somebody's")
    for name in ("facts", "facts2"):
        killed = [sys.executable, "-c", _KILLED, str(tmp_path / name)]
        assert subprocess.run(killed, check=False).returncode == 9
    before = {path.name for path in tmp_path.iterdir()}
    assert len(before) == 4
    atomic_write.remove_unfinished(tmp_path / "facts")
    (removed,) = before - {path.name for path in tmp_path.iterdir()}
    assert removed.startswith(".facts.")
    assert removed != ".facts.json"
    assert (tmp_path / "facts").read_text() == "old"
