"""One writer of a place: told who has it, freed by whatever ends a process."""

import errno
import fcntl
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from visor_jax.runtime import owner, ownership
from visor_jax.runtime.ownership import TakenError, owned_file, owned_folder
from visor_jax.runtime.user_error import UserError

ROOT = Path(__file__).parents[2]
HOLDS = """
import subprocess, sys, time
from visor_jax.runtime.ownership import owned_file
with owned_file(sys.argv[1]):
    child = subprocess.Popen(["sleep", "30"])
    print(child.pid, flush=True)
    time.sleep(60)
"""
COUNTS = """
import sys
from pathlib import Path
from visor_jax.runtime.ownership import owned_file
file = Path(sys.argv[1])
for _ in range(30):
    with owned_file(file, wait=lambda: None):
        file.write_text(str(int(file.read_text()) + 1))
"""


def start(program, file):
    return subprocess.Popen(
        [sys.executable, "-c", program, str(file)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(ownership, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(ownership, "SILENCE_SECONDS", 0.6)
    monkeypatch.setattr(ownership, "_LOOK_SECONDS", 0.02)


@pytest.fixture
def without_locks(monkeypatch):
    def none(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)


def record(file, **changes):
    """Writes down another machine's owner, as a crash leaves it."""
    fields = {
        **{"host": "node7", "pid": 12, "command": "python -m a", "since": "today"},
        **{"machine": "another", "token": "t", "beats": 3},
    }
    (file.parent / f".{file.name}.owner").write_text(json.dumps(fields | changes))


def test_the_second_is_told_who_has_it_and_nothing_stays_behind(tmp_path):
    for owned, place in (
        (owned_file, tmp_path / "a/answers.jsonl"),
        (owned_folder, tmp_path / "run"),
    ):
        with owned(place):
            with (
                pytest.raises(TakenError, match=re.escape(f"{place} is being")) as got,
                owned(place, remedy="Give another."),
            ):
                pass
            assert isinstance(got.value, UserError)
            assert f"{socket.gethostname()}, pid {os.getpid()}, since 2" in str(
                got.value
            )
            assert "pytest" in str(got.value)
            assert str(got.value).endswith("Give another.")
            # Another place in the same folder is another place.
            with owned(place.with_name("other")):
                pass
        with owned(place):
            pass
    assert not list(tmp_path.rglob("*.*"))
    assert not (tmp_path / "run").exists()


def test_what_is_in_a_folder_stays_and_an_error_frees_it(tmp_path):
    folder = tmp_path / "run"

    def stopped():
        with owned_folder(folder):
            (folder / "config.json").write_text("{}")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [f.name for f in folder.iterdir()] == ["config.json"]
    with owned_folder(folder):
        assert [
            f.name for f in folder.iterdir() if not ownership.is_of_an_owner(f)
        ] == ["config.json"]


def test_another_process_is_named_and_killed_frees_the_place_at_once(tmp_path):
    file = tmp_path / "answers.jsonl"
    with start(HOLDS, file) as other:
        child = int(other.stdout.readline())
        try:
            named = rf"{socket.gethostname()}, pid {other.pid}, since .*python"
            with pytest.raises(TakenError, match=named), owned_file(file):
                pass
            other.send_signal(signal.SIGKILL)
            other.wait()
            began = time.monotonic()
            # The child of the killed process lives on and holds nothing.
            os.kill(child, 0)
            with owned_file(file):
                assert time.monotonic() - began < 5
        finally:
            other.kill()
            os.kill(child, signal.SIGKILL)


def test_no_two_processes_are_ever_in_it_together(tmp_path):
    file = tmp_path / "count"
    file.write_text("0")
    others = [start(COUNTS, file) for _ in range(3)]
    assert [other.wait() for other in others] == [0, 0, 0]
    assert file.read_text() == "90"
    assert list(tmp_path.iterdir()) == [file]


def test_who_waits_gets_it_and_may_stop_waiting(tmp_path, fast, caplog):
    place = tmp_path / "pool"
    held, free, order = threading.Event(), threading.Event(), []

    def first():
        with owned_file(place):
            held.set()
            free.wait()
            order.append("first")

    def wait():
        order.append("waits")
        if order.count("waits") == 3:
            free.set()

    thread = threading.Thread(target=first)
    thread.start()
    # Its record is there before it is locked: only the owner itself knows.
    assert held.wait(60)

    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError), owned_file(place, wait=stop):
        pass
    with caplog.at_level(logging.INFO), owned_file(place, wait=wait):
        order.append("second")
    thread.join()
    assert order[:3] == ["waits"] * 3
    # Between the two, the waiting one may have looked once more.
    assert order.index("first") < order.index("second") == len(order) - 1
    said = [line for line in caplog.messages if "waiting for another process" in line]
    assert len(said) == 1


def test_a_silent_owner_of_another_machine_is_waited_out(tmp_path, fast, caplog):
    file = tmp_path / "answers.jsonl"
    record(file)
    began = time.monotonic()
    with owned_file(file):
        assert time.monotonic() - began > 0.5
    assert any("node7, pid 12" in m and "is gone" in m for m in caplog.messages)


def test_one_that_crashed_on_this_machine_is_not_waited_for(tmp_path):
    file = tmp_path / "answers.jsonl"
    record(file, machine=owner.machine())
    began = time.monotonic()
    with owned_file(file):
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("locks", [True, False])
def test_an_owner_of_another_machine_that_lives_keeps_it(
    tmp_path, fast, request, monkeypatch, locks
):
    """Locks that do not reach another machine, or a file system that has none."""
    if not locks:
        request.getfixturevalue("without_locks")
    file = tmp_path / "answers.jsonl"
    record(file)
    ended = threading.Event()

    def live():
        beats = 0
        while not ended.wait(0.05):
            beats += 1
            record(file, beats=beats)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(TakenError, match="node7, pid 12"), owned_file(file):
            pass
    finally:
        ended.set()
        thread.join()


def test_signs_of_life_do_without_locks(tmp_path, fast, without_locks):
    place = tmp_path / "run"
    with owned_folder(place):
        time.sleep(0.3)
        assert json.loads((place / ".owner").read_bytes())["beats"] > 0
        with pytest.raises(TakenError), owned_folder(place):
            pass
    assert not place.exists()


def test_a_record_that_is_no_record_is_nobody(tmp_path, fast):
    (tmp_path / ".a.owner").write_text('{"host"')
    with owned_file(tmp_path / "a"):
        assert json.loads((tmp_path / ".a.owner").read_bytes())["pid"] == os.getpid()


def test_who_lost_a_place_says_so_and_leaves_it_to_the_other(tmp_path, fast, caplog):
    file = tmp_path / "a"
    with owned_file(file):
        record(file)
        time.sleep(0.3)
    assert any("was taken from this process by another" in m for m in caplog.messages)
    assert (tmp_path / ".a.owner").exists()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_what_is_read_only_is_said_before_any_work(tmp_path, monkeypatch, number):
    def refuses(file, *_):
        raise OSError(number, os.strerror(number), str(file))

    monkeypatch.setattr(os, "open", refuses)
    message = rf"{tmp_path} cannot be written to \({os.strerror(number)}\)"
    with pytest.raises(UserError, match=message), owned_file(tmp_path / "a"):
        pass


def test_a_folder_that_cannot_be_written_to_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file: give a folder"):
        owned_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError), owned_folder(tmp_path / "file" / "run"):
        pass
