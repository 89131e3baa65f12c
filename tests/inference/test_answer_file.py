"""Requests in, answers out: what a line may be, and what a stopped run leaves."""

import json

import pytest

from visor_jax.inference.answer_file import AnswerFile, read_requests

IDS, BUDGETS = {1, 2, "a"}, ("sa0", "sa1:1")


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
    assert found[1].request.images == [f"{tmp_path}/x.png"]
    assert found[1].request.prompt == "é"
    assert found[2].request.images == ["/y.png", f"{tmp_path}/z/w.png"]
    path = tmp_path / "requests.jsonl"
    (_, line, _) = read_requests(path, image_root=tmp_path / "pages")
    assert line.request.images == [f"{tmp_path}/pages/x.png"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"prompt": "a"', "line 2: "),
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
    good, bad, other = lines(tmp_path, '{"prompt": "a"}', text, '{"prompt": "c"}')
    assert bad.request is None
    assert bad.id == 2
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


def test_a_run_goes_on_after_a_line_that_was_half_written(tmp_path):
    path = tmp_path / "new" / "answers.jsonl"
    with AnswerFile(path, IDS, BUDGETS) as answers:
        answers.write({"id": "a", "answer": "ö", "budget": "sa0"})
        # There before the file is closed.
        assert json.loads(path.read_text()) == {
            "id": "a",
            "answer": "ö",
            "budget": "sa0",
        }
        answers.write({"id": 1, "error": "no"})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": 2, "answer": "4\xc3')
    answers = AnswerFile(path, IDS, BUDGETS)
    assert answers.done == {"a", 1}
    assert answers.failed == 1
    with answers:
        assert path.read_bytes() == whole
        answers.write({"id": 2, "answer": "4", "budget": "sa1:1"})
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["id"] for record in records] == ["a", 1, 2]
    assert AnswerFile(path, IDS, BUDGETS).done == IDS


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hello\n", "line 1 is no answer of this command"),
        ('{"id": 1}\n[]\n', "line 2 is no answer of this command"),
        ('{"id": [1]}\n', "line 1 is no answer"),
        ('{"id": 7}\n', "id 7, which is not in the input"),
        ('{"id": 1}\n{"id": 1}\n', "line 2 answers id 1.*already"),
        ('{"id": 1, "budget": "sa3"}\n', r"'sa3', now it would be \['sa0', 'sa1:1'\]"),
    ],
)
def test_another_file_is_not_written_to(tmp_path, text, reason):
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        AnswerFile(path, IDS, BUDGETS)
    assert path.read_text() == text
