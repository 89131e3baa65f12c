"""Lines of a request file: what each is, and what tells it from others."""

import hashlib
import json

import pytest

from visor_jax.data.prompts.messages import media
from visor_jax.inference.files.request_file import read_requests


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
        ('["prompt": "a"', r"line 2: broken JSON \(Expecting ',' delimiter, column 10"),
        ("[1]", r"line 2: \[1\] is no JSON object"),
        ('"a"', "line 2: 'a' is no JSON object"),
        ('{"prompt": "a", "messages": []}', "give prompt or messages, not both"),
        ('{"prompt": null, "image": "a"}', "prompt None is neither"),
        ("{}", "prompt None is neither"),
        ('{"prompt": ""}', "neither a text"),
        ('{"prompt": "a", "picture": "b", "k": 1}', r"\['k', 'picture'\]"),
        ('{"prompt": "a", "image": "b", "images": []}', "not both"),
        ('{"prompt": "a", "images": "b"}', "no list of files"),
        ('{"prompt": "a", "image": 3}', "no list of files"),
        ('{"prompt": "a", "video": "b", "videos": []}', "give video or videos"),
        ('{"prompt": "a", "videos": "b"}', "or of lists of their frames"),
        ('{"prompt": "a", "videos": [[]]}', "or of lists of their frames"),
        ('{"prompt": "a", "video": [3]}', "or of lists of their frames"),
        ('{"prompt": "a", "id": [1]}', r"id \[1\] is neither"),
        ('{"prompt": "a", "id": true}', "id True is neither"),
    ],
)
def test_a_line_that_is_no_request_is_an_error_of_its_own(tmp_path, text, reason):
    name = "line 2"
    good, bad, other = lines(tmp_path, '{"prompt": "a"}', text, '{"prompt": "c"}')
    assert bad.request is None
    assert bad.id == (2 if text.startswith("{") and '"id"' not in text else name)
    with pytest.raises(ValueError, match=reason):
        raise ValueError(bad.error)
    assert good.request.prompt == "a"
    assert other.request.prompt == "c"


def test_null_is_as_if_it_were_not_there(tmp_path):
    texts = (
        '{"prompt": "a", "image": null}',
        '{"prompt": "a", "image": null, "images": ["x.png"], "messages": null}',
        '{"prompt": "a", "image": "x.png", "images": null}',
        '{"prompt": "a"}',
    )
    bare, listed, single, plain = lines(tmp_path, *texts)
    assert not any(line.error for line in (bare, listed, single, plain))
    assert bare.request.images is None
    assert bare.digest == plain.digest
    assert listed.request.images == single.request.images == [f"{tmp_path}/x.png"]
    assert listed.digest == single.digest


URI = "data:image/png;base64,aGk="


def test_messages_are_read_in_all_forms_and_paths_begin_at_the_file(tmp_path):
    """...as those of "image" do, wherever the command is started."""
    content = [
        {"type": "image", "path": "x.png"},
        {"type": "image", "url": "sub/y.png"},
        {"type": "image_url", "image_url": {"url": "file:///z%20w.png"}},
        {"type": "input_image", "image_url": URI},
        {"type": "input_text", "text": "Why?"},
    ]
    frames = [{"type": "video", "video": ["1.png", "/2.png"]}]
    messages = [{"role": "user", "content": content}]
    film = [{"role": "user", "content": frames}, {"role": "user", "content": "So?"}]
    found, same, frames = lines(
        tmp_path,
        json.dumps({"messages": messages}),
        json.dumps({"prompt": messages}),
        json.dumps({"prompt": film}),
    )
    assert found.error is None
    assert found.digest == same.digest
    here = str(tmp_path)
    expected = (f"{here}/x.png", f"{here}/sub/y.png", "/z w.png")
    assert media(found.request.prompt, "image") == [*expected, b"hi"]
    assert found.pictures == expected
    assert media(frames.request.prompt, "video") == [[f"{here}/1.png", "/2.png"]]
    assert frames.pictures == (f"{here}/1.png", "/2.png")
    assert frames.request.prompt[1] == film[1]


def test_videos_are_files_or_lists_of_frames(tmp_path):
    found = lines(
        tmp_path,
        '{"prompt": "a", "video": "x.mp4"}',
        '{"prompt": "a", "videos": ["x.mp4"], "image": null}',
        '{"prompt": "a", "video": ["1.png", "/2.png"]}',
        '{"prompt": "a", "videos": ["x.mp4", ["1.png", "2.png"]], "image": "a.png"}',
        '{"prompt": "a"}',
    )
    assert not any(line.error for line in found)
    here = str(tmp_path)
    one, same, frames, both, none = found
    assert one.request.videos == same.request.videos == [f"{here}/x.mp4"]
    assert frames.request.videos == [[f"{here}/1.png", "/2.png"]]
    assert frames.pictures == (f"{here}/1.png", "/2.png")
    names = ("a.png", "x.mp4", "1.png", "2.png")
    assert both.pictures == tuple(f"{here}/{name}" for name in names)
    assert one.digest == same.digest
    assert len({line.digest for line in found}) == 4
    assert none.request.videos is None


def test_urls_and_data_uris_stay_what_they_are(tmp_path):
    text = json.dumps({"prompt": "a", "images": [URI, "https://a.b/c.png", "x.png"]})
    (line,) = lines(tmp_path, text)
    assert line.request.images == [URI, "https://a.b/c.png", f"{tmp_path}/x.png"]
    assert line.pictures == (f"{tmp_path}/x.png",)


def test_errors_of_a_line_are_short(tmp_path):
    long = "x" * 10**5
    texts = (
        f'"{long}"',
        f'{{"prompt": "{long}',
        f'{{"images": "{long}", "prompt": "a"}}',
    )
    texts += (f'{{"prompt": {{"a": "{long}"}}}}', f'{{"{long}": 1}}', "[" * 10**5)
    for line in lines(tmp_path, *texts):
        assert line.error
        assert len(line.error) < 300


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


def read_requests_of(tmp_path, text):
    (tmp_path / "other.jsonl").write_text(text)
    return read_requests((tmp_path / "other.jsonl").relative_to(tmp_path))


def test_digests_are_those_of_earlier_answers(tmp_path):
    """Of paths in messages as they stand there, of others made absolute."""
    message = {"role": "user", "content": [{"type": "image", "path": "x.png"}]}
    texts = json.dumps({"prompt": [message]}), '{"prompt": "a", "image": "x.png"}'
    found = lines(tmp_path, *texts)
    before = [[message], None], ["a", [f"{tmp_path}/x.png"]]
    for line, content in zip(found, before, strict=True):
        text = json.dumps(content, sort_keys=True).encode()
        assert line.digest == hashlib.blake2b(text, digest_size=8).hexdigest()


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
