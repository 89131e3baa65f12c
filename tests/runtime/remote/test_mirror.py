"""Files written here and uploaded whole."""

import pytest

from tests.fake_storage import PAGE, fake_storage
from visor_jax.runtime.remote.bucket import UploadError
from visor_jax.runtime.remote.mirror import Mirror, owned_place


@pytest.fixture
def storage():
    with fake_storage("bucket") as storage:
        yield storage


def test_files_that_grow_are_uploaded_whole(storage):
    mirror = Mirror("gs://bucket/a/run", apart=("cache",))
    with mirror.owned("Wait."):
        log, events = mirror.folder / "log.jsonl", mirror.folder / "events/one"
        events.parent.mkdir()
        (mirror.folder / "cache").mkdir()
        (mirror.folder / "cache/pages").write_text("many")
        for line in range(3):
            with log.open("a") as file:
                file.write(f"{line}\n")
            events.write_text("x" * line)
            mirror.upload()
        mirror.upload()
        assert storage.read("bucket", "a/run/log.jsonl") == b"0\n1\n2\n"
        assert storage.read("bucket", "a/run/events/one") == b"xx"
    # What has not changed is not uploaded again, and nothing else is.
    written = [name for name in storage.writes if not name.endswith(".owner")]
    assert sorted(written) == ["a/run/events/one"] * 3 + ["a/run/log.jsonl"] * 3
    assert storage.names("bucket") == ["a/run/events/one", "a/run/log.jsonl"]


def test_a_start_begins_with_what_the_bucket_holds(storage):
    for number in range(PAGE + 3):
        storage.write("bucket", f"run/file{number}", b"%d" % number)
    storage.write("bucket", "run/events/one", b"of an earlier start")
    storage.write("bucket", "run/cache/pages", b"another machine's")
    mirror = Mirror("gs://bucket/run", apart=("cache",))
    (mirror.folder / "cache").mkdir(parents=True)
    for name in ("file0", "never uploaded", "cache/pages"):
        (mirror.folder / name).write_text("this machine's")
    mirror.fetch()
    found = {f.name: f.read_text() for f in mirror.folder.iterdir() if f.is_file()}
    assert found == {f"file{n}": str(n) for n in range(PAGE + 3)}
    assert (mirror.folder / "cache/pages").read_text() == "this machine's"
    count = len(storage.writes)
    (mirror.folder / "file0").write_text("another")
    mirror.upload()
    assert storage.writes[count:] == ["run/file0"]


def test_what_is_refused_leaves_what_was_there(storage):
    mirror = Mirror("gs://bucket/run")
    mirror.folder.mkdir(parents=True)
    (mirror.folder / "log").write_text("old")
    mirror.upload()
    (mirror.folder / "log").write_text("newer")
    storage.refuses = lambda method, name: 403 if method == "POST" else None
    with pytest.raises(
        UploadError, match=r"to gs://bucket/run/log failed.*run the same"
    ):
        mirror.upload()
    assert storage.read("bucket", "run/log") == b"old"
    storage.refuses = lambda method, name: None
    mirror.upload()
    assert storage.read("bucket", "run/log") == b"newer"


def test_a_report_is_uploaded_once_it_is_whole(storage, tmp_path):
    def half_a_report():
        with owned_place("gs://bucket/r") as folder:
            (folder / "report.md").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_a_report()
    assert storage.names("bucket") == []
    with owned_place("gs://bucket/r") as folder:
        assert not (folder / "report.md").exists()
        (folder / "report.md").write_text("whole")
    assert storage.names("bucket") == ["r/report.md"]
    with owned_place(tmp_path / "r") as folder:
        assert folder == tmp_path / "r"
        (folder / "report.md").write_text("whole")
    assert [f.name for f in folder.iterdir()] == ["report.md"]
