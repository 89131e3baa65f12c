"""Who owns a folder of a bucket: one process at a time, whatever the machine."""

import json
import os
import time

import pytest

from tests.fake_storage import fake_storage
from visor_jax.runtime import ownership
from visor_jax.runtime.ownership import TakenError
from visor_jax.runtime.remote import bucket_owner
from visor_jax.runtime.remote.bucket_owner import owned_bucket_folder
from visor_jax.runtime.user_error import UserError

PLACE, NAME = "gs://bucket/run", "run/.owner"


@pytest.fixture
def storage(monkeypatch):
    monkeypatch.setattr(bucket_owner, "_LOOK_SECONDS", 0.02)
    with fake_storage("bucket") as storage:
        yield storage


def owning(folder, **more):
    return owned_bucket_folder(PLACE, folder, remedy="Wait.", **more)


def leave_behind(storage, **fields):
    """Leaves what a process that was killed has left."""
    found = json.loads(storage.read("bucket", NAME)) | fields
    storage.write("bucket", NAME, json.dumps(found).encode())


def test_one_process_owns_a_folder_at_a_time(storage, tmp_path):
    with owning(tmp_path / "here"):
        owner = json.loads(storage.read("bucket", NAME))
        # On this machine, where both share a folder...
        with pytest.raises(TakenError, match=f"{PLACE} is being written by"):
            owning(tmp_path / "here").__enter__()
        # ...and on another.
        alive = iter(range(1, 99))
        other = bucket_owner._Held(PLACE, tmp_path).take(
            lambda: leave_behind(storage, machine="another", beats=next(alive))
        )
        assert other is not None
        assert f"pid {os.getpid()}," in str(other)
        leave_behind(storage, **owner)
    assert storage.names("bucket") == []
    with owning(tmp_path / "elsewhere"):
        assert storage.names("bucket") == [NAME]


def test_what_was_killed_here_is_taken_over_at_once(storage, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    with owning(tmp_path / "here"):
        leave_behind(storage)
        left = storage.read("bucket", NAME)
    storage.write("bucket", NAME, left)
    began = time.monotonic()
    with owning(tmp_path / "here"):
        assert json.loads(storage.read("bucket", NAME)) != json.loads(left)
    assert time.monotonic() - began < ownership.SILENCE_SECONDS / 5
    # Without that lock here it takes the silence: a machine of its own.
    storage.write("bucket", NAME, left)
    monkeypatch.setattr(ownership, "SILENCE_SECONDS", 0.2)
    with owning(tmp_path / "another machine's"):
        assert json.loads(storage.read("bucket", NAME)) != json.loads(left)


def test_of_two_that_take_over_one_gets_it(storage, tmp_path, monkeypatch):
    with owning(tmp_path / "first"):
        left = storage.read("bucket", NAME)
    storage.write("bucket", NAME, left)
    monkeypatch.setattr(ownership, "SILENCE_SECONDS", 0.1)
    one, two = (tmp_path / name for name in ("one", "two"))
    for folder in (one, two):
        folder.mkdir()
    first, second = (bucket_owner._Held(PLACE, folder) for folder in (one, two))
    _, generation = second._read()
    assert first.take(lambda: None) is None
    # The second one had seen the dead one's record, and comes too late to remove it.
    second._remove(generation)
    assert json.loads(storage.read("bucket", NAME))["token"] == first._owner.token


def test_signs_of_life_go_on_until_another_has_it(
    storage, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(ownership, "BEAT_SECONDS", 0.02)
    with owning(tmp_path / "here"):
        until = time.monotonic() + 20
        while json.loads(storage.read("bucket", NAME))["beats"] < 2:
            assert time.monotonic() < until
            time.sleep(0.02)
        leave_behind(storage, token="another's")
        while "was taken from this process" not in caplog.text:
            # A sign of life may have been on its way.
            leave_behind(storage, token="another's")
            assert time.monotonic() < until
            time.sleep(0.02)
    # It is theirs now.
    assert storage.names("bucket") == [NAME]


def test_a_bucket_that_may_only_be_read_is_named(storage, tmp_path):
    storage.refuses = lambda method, name: 403 if method == "POST" else None
    with pytest.raises(UserError, match="may not write objects of the bucket"):
        owning(tmp_path / "here").__enter__()
    assert not (tmp_path / "here").exists()
