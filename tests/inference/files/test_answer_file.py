"""Requests in, answers out: what a line may be, and what a stopped run leaves."""

import json
import pathlib

import pytest

from visor_jax.inference.files.answer_file import AnswerFile, check_apart
from visor_jax.inference.files.request_file import read_requests

DIGESTS = {1: "d1", 2: "d2", "a": "da"}
SETTINGS = {"budgets": ("sa0", "sa1:1"), "max_new_tokens": 8, "top_k": None}
KEPT = {"id": "a", "answer": "ö", "budget": "sa0", "request": "da"}
FAILED = {"id": 1, "error": "no", "request": "d1"}


def lines(tmp_path, *texts):
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(texts))
    return read_requests(path)


def test_lines_are_requests_called_by_id_or_number(tmp_path):
    found = lines(
        tmp_path,
        '{"prompt": "why"}',
        '{"id": "a", "image": "x.png", "prompt": "é"}',
        "",
        '{"images": ["/y.png", "z/w.png"], "prompt": [{"role": "user"}]}',
    )
    assert [line.id for line in found] == [1, "a", 4]
    assert not any(line.error for line in found)
    assert found[0].request.images is None
    # What is drawn at random depends on the line, wherever a run begins.
    assert [line.request.draw for line in found] == [1, 2, 4]
    assert found[1].request.images == [f"{tmp_path}/x.png"]
    assert found[1].request.prompt == "é"
    assert found[2].request.images == ["/y.png", f"{tmp_path}/z/w.png"]
    path = tmp_path / "requests.jsonl"
    (_, line, _) = read_requests(path, image_root=tmp_path / "pages")
    assert line.request.images == [f"{tmp_path}/pages/x.png"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('["prompt": "a"', "line 2: "),
        ("[1]", "no JSON object"),
        ("{}", "prompt None is neither"),
        ('{"prompt": ""}', "neither a text"),
        ('{"prompt": "a", "picture": "b", "k": 1}', r"\['k', 'picture'\]"),
        ('{"prompt": "a", "image": "b", "images": []}', "not both"),
        ('{"prompt": "a", "images": "b"}', "no list of files"),
        ('{"prompt": "a", "image": 3}', "no list of files"),
        ('{"prompt": "a", "id": [1]}', r"id \[1\] is neither"),
        ('{"prompt": "a", "id": true}', "id True is neither"),
    ],
)
def test_a_line_that_is_no_request_is_an_error_of_its_own(tmp_path, text, reason):
    name = "line 2"
    good, bad, other = lines(tmp_path, '{"prompt": "a"}', text, '{"prompt": "c"}')
    assert bad.request is None
    assert bad.id == (2 if text.startswith("{") and "id" not in text else name)
    with pytest.raises(ValueError, match=reason):
        raise ValueError(bad.error)
    assert good.request.prompt == "a"
    assert other.request.prompt == "c"


def test_files_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds no request"):
        lines(tmp_path, "", " ")
    repeated = ['{"id": "a", "prompt": "x"}'] * 2
    with pytest.raises(ValueError, match=r"ids \['a', 2\] are there more than once"):
        lines(tmp_path, *repeated, '{"id": 2, "prompt": "x"}', '{"id": 2}')
    (tmp_path / "image.png").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        read_requests(tmp_path / "image.png")
    with pytest.raises(FileNotFoundError):
        read_requests(tmp_path / "gone")


def test_unreadable_lines_take_no_id_of_others(tmp_path):
    texts = ['{"id": 2, "prompt": "x"}', "oops", '{"id": "line 2", "prompt": "x"}']
    found = lines(tmp_path, *texts)
    assert [line.id for line in found] == [2, "line 2'", "line 2"]
    assert [line.error is None for line in found] == [True, False, True]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"id": "a", "prompt": "x"}\n')
    (line,) = read_requests(path)
    assert (line.id, line.error) == ("a", None)


def test_digests_tell_requests_apart(tmp_path, monkeypatch):
    texts = (
        '{"id": 1, "prompt": "a", "image": "x.png"}',
        '{"id": 2, "prompt": "a", "image": "y.png"}',
        '{"id": 3, "prompt": "b", "image": "x.png"}',
        '{"id": 4, "prompt": [{"role": "user", "content": "a"}]}',
        '{"id": 5, "prompt": "a"}',
        "oops",
    )
    found = [line.digest for line in lines(tmp_path, *texts)]
    assert len(set(found)) == len(texts)
    # Neither the id nor the folder where the command is started matters.
    monkeypatch.chdir(tmp_path)
    (line,) = read_requests_of(tmp_path, '{"images": ["x.png"], "prompt": "a"}')
    assert line.digest == found[0]


def test_what_a_line_says_of_its_answer_is_read_and_told_apart(tmp_path):
    plain = '{"prompt": "a"'
    said = (
        '"budget": "none"',
        '"budget": 2',
        '"max_new_tokens": 3',
        '"sampling": {"temperature": 0.5}',
        '"sampling": {"temperature": 0.5, "top_k": 2}',
        '"seed": 0',
        '"stop": ["x"]',
        '"stop": ["y"], "seed": 4',
    )
    found = lines(tmp_path, plain + "}", *(f"{plain}, {each}}}" for each in said))
    assert [line.error for line in found] == [None] * 9
    assert len({line.digest for line in found}) == 9
    # As it was when nothing could be said: old files of answers go on.
    assert found[0].digest == "fc5ccfd12820e320"
    options = found[-1].request.options
    assert (options.stop, options.seed, options.budget) == (("y",), 4, None)
    assert found[2].request.options.budget == "2"
    assert found[4].request.options.sampling.temperature == 0.5
    (bad,) = lines(tmp_path, '{"prompt": "a", "sampling": {"heat": 1}}')
    assert "unknown ['heat'] in sampling: known are ['temperature'" in bad.error


def read_requests_of(tmp_path, text):
    (tmp_path / "other.jsonl").write_text(text)
    return read_requests((tmp_path / "other.jsonl").relative_to(tmp_path))


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
