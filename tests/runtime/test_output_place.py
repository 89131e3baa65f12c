"""What is no file or no folder is refused, with what it is, before any work."""

import os
import socket

import pytest

from visor_jax.runtime.output_place import check_file, check_folder


@pytest.fixture
def things(tmp_path):
    """{kind: a path of it}."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        # The name of a socket may not be long.
        here = os.getcwd()
        os.chdir(tmp_path)
        bound.bind("socket")
        os.chdir(here)
        names = {"a folder": "folder", "a file": "file", "a socket": "socket"}
        found = {kind: tmp_path / name for kind, name in names.items()}
        yield found | {"a pipe": tmp_path / "link", "a device": "/dev/null"}


def test_only_files_are_files_and_only_folders_are_folders(things):
    for kind, path in things.items():
        for check, wanted in ((check_file, "a file"), (check_folder, "a folder")):
            if kind == wanted:
                assert check(path, "--out") == path
            else:
                said = f"--out=.* is {kind}, not {wanted}"
                with pytest.raises(ValueError, match=said):
                    check(path, "--out")


def test_what_is_not_there_can_be_made_below_folders_alone(things, tmp_path):
    for check in (check_file, check_folder):
        new = tmp_path / "new" / "deep"
        assert check(new, "--out") == new
        with pytest.raises(ValueError, match="file is a file, not a folder"):
            check(things["a file"] / "below", "--out")
    assert not (tmp_path / "new").exists()
