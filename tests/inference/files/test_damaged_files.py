"""10,000 small mutations of files that strangers give: documented errors alone.

Requests, answers, sources of training data and their manifests. What is mutated and
how follows from a seed, so that a failure can be repeated.
"""

import base64
import collections
import contextlib
import io
import json

import jaxtyping
import numpy as np
import pytest
from PIL import Image

from tests.data import tiny_llava
from tests.data.mutations import STRANGE, mutated, mutated_bytes, outcome
from tests.data.tiny_llava import image_settings
from visor_jax.data.conversations import manifest as manifest_module
from visor_jax.data.conversations.converting.item_checks import (
    BadItemError,
    ImageFolder,
    read_item,
)
from visor_jax.data.conversations.converting.sources import count_entries, pieces_of
from visor_jax.data.conversations.manifest import read_manifest
from visor_jax.data.prompts.chat_processor import ChatProcessor
from visor_jax.inference.files.answer_file import AnswerFile
from visor_jax.inference.files.request_file import read_requests

REQUESTS, ENTRIES, FILES = 5000, 4000, 1000
PROCESSOR = ChatProcessor(
    tokenizer=tiny_llava.tokenizer(),
    images=image_settings(tile=14, patch=7, side=2),
    max_length=400,
)


def _uri():
    content = io.BytesIO()
    Image.new("RGB", (5, 4)).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


URI = _uri()
PARTS = [
    {"type": "image_url", "image_url": {"url": URI, "detail": "low"}},
    {"type": "input_image", "image_url": URI},
    {"type": "image", "base64": URI.partition(",")[2]},
    {"type": "input_text", "text": "Why?"},
]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": PARTS},
    {"role": "assistant", "content": [{"type": "output_text", "text": "So."}]},
]
VALID_REQUESTS = (
    {"id": "a7", "image": "page.png", "prompt": "What is it?"},
    {"images": ["page.png", URI], "prompt": "<image> or <image>?"},
    {"id": 3, "messages": MESSAGES, "image": None},
    {"prompt": MESSAGES},
)
VALID_ENTRIES = (
    {"id": "7", "messages": MESSAGES[1:], "image": None},
    {
        "id": 7,
        "image": ["page.png", {"bytes": None, "path": "page.png"}],
        "conversations": [
            {"from": "human", "value": "<image><image>\nWhy?"},
            {"from": "gpt", "value": "Because."},
        ],
    },
)
# What JSON can say.
STRANGE_JSON = (
    *(each for each in STRANGE if "b'" not in repr(each)),
    *(
        10**30,
        -1,
        1e300,
        True,
        [[[]]],
        {"": None},
        "https://a/b.png",
        "file://",
        "data:",
    ),
    *(
        "data:image/png;base64,?",
        "\0",
        "../..",
        "/dev/zero",
        "a" * 5000,
        "%00",
        "a://b",
    ),
)


@pytest.fixture(autouse=True)
def no_annotation_checks():
    """Strange types must meet the package's own checks, as they do in production."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (9, 7)).save(tmp_path / "page.png")
    return tmp_path


def damaged(valid, number, rng):
    """Returns a line of JSON whose values, or whose bytes, are mutated."""
    value = valid[number % len(valid)]
    if rng.random() < 0.7:
        return json.dumps(mutated(value, rng, STRANGE_JSON)).encode()
    return mutated_bytes(json.dumps(value).encode(), rng).replace(b"\n", b" ")


def check_some_of_both(outcomes):
    assert set(outcomes) == {"fine", "refused"}


def test_damaged_requests(folder):
    """A line is a request or an error of its own; no other line is touched."""
    rng = np.random.default_rng(0)
    outcomes = []
    for first in range(0, REQUESTS, 100):
        lines = [damaged(VALID_REQUESTS, n, rng) for n in range(first, first + 100)]
        texts = [line.decode(errors="replace") for line in lines]
        # Ids that are there twice are of the file as a whole.
        known = collections.Counter()
        for number, text in enumerate(texts):
            with contextlib.suppress(ValueError, RecursionError, AttributeError):
                given = json.loads(text).get("id")
                known[str(given)] += 1
                if known[str(given)] > 1 or isinstance(given, int):
                    texts[number] = "[]"
        file = folder / "requests.jsonl"
        file.write_text("\n".join(texts))
        entries = read_requests(file)
        assert len(entries) == sum(bool(text.strip()) for text in texts)
        for entry in entries:
            assert (entry.request is None) is (entry.error is not None)
            if entry.error is not None:
                assert len(entry.error) < 1000
                outcomes.append("refused")
                continue
            asked = entry.request
            outcomes.append(
                outcome(
                    lambda asked=asked: PROCESSOR.prompt(
                        asked.messages(), images=asked.images, videos=asked.videos
                    )
                )
            )
    check_some_of_both(outcomes)


def test_damaged_entries_of_training_data(folder):
    rng = np.random.default_rng(1)
    outcomes = []
    for first in range(0, ENTRIES, 100):
        file = folder / "train.jsonl"
        lines = [damaged(VALID_ENTRIES, n, rng) for n in range(first, first + 100)]
        file.write_bytes(b"\n".join(lines))
        assert count_entries(file) <= 100
        for piece in pieces_of(file, 1000):
            for _, item in piece.items():
                outcomes.append(outcome(read_item, item, ImageFolder(folder)))
    assert len(outcomes) > 0.9 * ENTRIES
    check_some_of_both(outcomes)


def test_damaged_files_as_a_whole(folder):
    """Lists of entries, answers, their settings, and manifests."""
    rng = np.random.default_rng(2)
    listed = folder / "train.json"
    answers, converted = folder / "answers.jsonl", folder / "converted"
    digests = {"a7": "d1", 3: "d2"}
    records = [
        {"id": "a7", "answer": "4", "budget": "sa0", "request": "d1", "images": "0"},
        {"id": 3, "error": "no", "request": "d2"},
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    settings = {"budgets": ["sa0"], "top_k": None}
    sidecar = folder / "answers.jsonl.settings.json"
    manifest = {
        "format": manifest_module.FORMAT,
        "kind": "conversations",
        "samples": 1,
        "shards": [
            {
                "number": 0,
                "rows": 1,
                "texts": {"file": "texts", "bytes": 1, "sha256": "0"},
                "images": {"file": "images", "bytes": 1, "sha256": "0"},
            }
        ],
    }
    converted.mkdir()
    for name in ("texts", "images"):
        (converted / name).write_bytes(b"x")

    def json_or_bytes(value):
        if rng.random() < 0.5:
            return json.dumps(mutated(value, rng, STRANGE_JSON)).encode()
        return mutated_bytes(json.dumps(value).encode(), rng)

    def read_list():
        for piece in pieces_of(listed, 10):
            for _, item in piece.items():
                with contextlib.suppress(BadItemError):
                    read_item(item, ImageFolder(folder))

    def read_answers():
        AnswerFile(answers, digests, settings, pictures={"a7": ["/gone.png"]})

    outcomes = collections.defaultdict(list)
    for _ in range(FILES // 4):
        listed.write_bytes(json_or_bytes(list(VALID_ENTRIES)))
        outcomes["list"].append(outcome(read_list))
        sidecar.write_text(json.dumps(settings))
        answers.write_bytes(mutated_bytes(lines, rng))
        outcomes["answers"].append(outcome(read_answers))
        answers.write_bytes(lines)
        sidecar.write_bytes(json_or_bytes(settings))
        outcomes["settings"].append(outcome(read_answers))
        (converted / "manifest.json").write_bytes(json_or_bytes(manifest))
        outcomes["manifest"].append(outcome(read_manifest, converted))
    for found in outcomes.values():
        check_some_of_both(found)
    for file, read in {
        listed: read_list,
        sidecar: read_answers,
        answers: read_answers,
        converted / "manifest.json": lambda: read_manifest(converted),
    }.items():
        # Deeper than what parses it can go.
        file.write_text("[" * 10**5 + "\n")
        assert outcome(read) == "refused"
