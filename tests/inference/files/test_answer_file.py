"""Requests in, answers out: what a line may be, and what a stopped run leaves."""

import json
import os
import pathlib

import pytest

from tests.limited_files import limited_files
from visor_jax.inference.files.answer_file import AnswerFile, check_apart
from visor_jax.inference.files.picture_files import digest_of

DIGESTS = {1: "d1", 2: "d2", "a": "da"}
SETTINGS = {"budgets": ("sa0", "sa1:1"), "max_new_tokens": 8, "top_k": None}
KEPT = {"id": "a", "answer": "ö", "budget": "sa0", "request": "da"}
FAILED = {"id": 1, "error": "no", "request": "d1"}


def test_a_full_disk_keeps_the_answers_before_and_names_the_file(tmp_path):
    path, digests = tmp_path / "answers.jsonl", {i: f"d{i}" for i in range(100)}
    answers = AnswerFile(path, digests, SETTINGS)

    def write_all():
        with answers:
            for number, digest in digests.items():
                record = {"id": number, "answer": "ö" * 40, "request": digest}
                answers.write(record)

    with limited_files(3000), pytest.raises(OSError, match="File too large") as error:
        write_all()
    assert error.value.filename == str(path)
    written = len(answers.done)
    assert 10 < written < 100
    with AnswerFile(path, digests, SETTINGS) as again:
        # A line that the disk took in part is written anew.
        assert again.done == set(range(written))
        for number in range(written, 100):
            again.write({"id": number, "answer": "a", "request": f"d{number}"})
    found = [json.loads(line)["id"] for line in path.read_text().splitlines()]
    assert found == list(range(100))


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_answers_go_into_files_alone(tmp_path, kind):
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = pathlib.Path("/dev/null")
    with pytest.raises(ValueError, match=f"--output=.* is a {kind}, not a file"):
        AnswerFile(path, DIGESTS, SETTINGS)


def test_answers_about_another_picture_are_not_kept(tmp_path):
    picture, path = tmp_path / "x.png", tmp_path / "answers.jsonl"
    picture.write_bytes(b"before")
    pictures = {"a": [str(picture)], 1: [str(picture)], 2: []}
    known = {**KEPT, "images": digest_of([str(picture)])}
    earlier = {"id": 2, "answer": "4", "budget": "sa0", "request": "d2"}
    with AnswerFile(path, DIGESTS, SETTINGS, pictures=pictures) as answers:
        for record in (known, FAILED, earlier):
            answers.write(record)

    def done():
        return AnswerFile(path, DIGESTS, SETTINGS, pictures=pictures).done

    assert done() == set(DIGESTS)
    # Of the same content it is the same, whenever it was written.
    picture.write_bytes(b"before")
    assert done() == set(DIGESTS)
    picture.write_bytes(b"after!")
    with pytest.raises(ValueError, match=r"about other pictures: .*x\.png changed"):
        done()
    picture.unlink()
    assert done() == set(DIGESTS)


def test_a_run_goes_on_after_a_line_that_was_half_written(tmp_path):
    path = tmp_path / "new" / "answers.jsonl"
    with AnswerFile(path, DIGESTS, SETTINGS) as answers:
        answers.write(KEPT)
        # There before the file is closed.
        assert json.loads(path.read_text()) == KEPT
        answers.write(FAILED)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": 2, "answer": "4\xc3')
    answers = AnswerFile(path, DIGESTS, SETTINGS)
    assert answers.done == {"a", 1}
    assert answers.failed == 1
    with answers:
        assert path.read_bytes() == whole
        answers.write({"id": 2, "answer": "4", "budget": "sa1:1", "request": "d2"})
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["id"] for record in records] == ["a", 1, 2]
    assert AnswerFile(path, DIGESTS, SETTINGS).done == set(DIGESTS)


def written(path):
    with AnswerFile(path, DIGESTS, SETTINGS) as answers:
        answers.write(KEPT)
        answers.write(FAILED)
    return path.read_bytes()


def test_errors_are_asked_again_where_that_is_wished(tmp_path):
    path = tmp_path / "answers.jsonl"
    before = written(path)
    # The request of the error may have been mended since.
    digests = {**DIGESTS, 1: "mended"}
    again = AnswerFile(path, digests, SETTINGS, retry_errors=True)
    assert (again.done, again.failed) == ({"a"}, 0)
    assert path.read_bytes() == before
    with again:
        again.write({"id": 1, "answer": "1", "budget": "sa0", "request": "mended"})
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record.get("answer") for record in records] == ["ö", "1"]


def test_a_mended_request_needs_a_wish(tmp_path):
    path = tmp_path / "answers.jsonl"
    written(path)
    with pytest.raises(ValueError, match=r"another request of id 1: .*--retry_errors"):
        AnswerFile(path, {**DIGESTS, 1: "mended"}, SETTINGS)


def test_overwriting_leaves_nothing_of_before(tmp_path):
    path = tmp_path / "answers.jsonl"
    before = written(path)
    settings = {**SETTINGS, "max_new_tokens": 9}
    answers = AnswerFile(path, DIGESTS, settings, overwrite=True)
    assert answers.done == set()
    assert path.read_bytes() == before
    with answers:
        assert path.read_bytes() == b""
    assert json.loads(answers.settings_path.read_text())["max_new_tokens"] == 9


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hello\n", "line 1 is no answer of this command"),
        ('{"id": 1, "request": "d1"}\n[]\n', "line 2 is no answer of this command"),
        ('{"id": [1]}\n', "line 1 is no answer"),
        ('{"id": 7}\n', "id 7, which is not in the input"),
        ('{"id": 1, "request": "d1"}\n' * 2, "line 2 answers id 1.*already"),
        ('{"id": 1, "request": "d2"}\n', "line 1 answers another request of id 1"),
        ('{"id": 1}\n', "line 1 answers another request of id 1"),
    ],
)
def test_another_file_is_not_written_to(tmp_path, text, reason):
    path = tmp_path / "answers.jsonl"
    written(path)
    path.write_text(text)
    with pytest.raises(ValueError, match=reason + ".*--overwrite"):
        AnswerFile(path, DIGESTS, SETTINGS)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"max_new_tokens": 9}, "max_new_tokens was 8, now 9"),
        ({"top_k": 5, "budgets": ["sa0"]}, r'"sa1:1"\], now .*; top_k was null, now 5'),
        ({"seed": 3}, "seed was null, now 3"),
    ],
)
def test_answers_of_other_settings_are_not_mixed(tmp_path, changed, reason):
    path = tmp_path / "answers.jsonl"
    before = written(path)
    with pytest.raises(ValueError, match=f"otherwise: .*{reason}.*--overwrite"):
        AnswerFile(path, DIGESTS, {**SETTINGS, **changed})
    assert path.read_bytes() == before


@pytest.mark.parametrize("settings", [None, "[1]", "{"])
def test_a_file_of_unknown_settings_is_not_written_to(tmp_path, settings):
    path = tmp_path / "answers.jsonl"
    # Not even one that has no line break.
    path.write_text("something of somebody")
    if settings is not None:
        (tmp_path / "answers.jsonl.settings.json").write_text(settings)
    with pytest.raises(ValueError, match=r"settings\.json, which says.*--overwrite"):
        AnswerFile(path, DIGESTS, SETTINGS)
    assert path.read_text() == "something of somebody"


def test_requests_are_not_written_over(tmp_path, monkeypatch):
    source, link = tmp_path / "requests.jsonl", tmp_path / "link.jsonl"
    source.write_text("{}")
    link.symlink_to(source)
    (tmp_path / "hard.jsonl").hardlink_to(source)
    monkeypatch.chdir(tmp_path)
    for output in (
        "requests.jsonl",
        "link.jsonl",
        "hard.jsonl",
        f"../{tmp_path.name}/requests.jsonl",
    ):
        with pytest.raises(ValueError, match="is the input itself"):
            check_apart(source, pathlib.Path(output))
    check_apart(source, tmp_path / "answers.jsonl")
