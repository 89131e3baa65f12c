"""Texts in pieces against the plain way: all tokens so far decoded, every time."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data import tiny_llava
from tests.inference import tiny_processor
from tests.inference.engine.tiny_engine import CONFIG
from visor_jax.data.pages.tokenizer import page_tokenizer
from visor_jax.data.prompts.answer_text import AnswerText, TextPieces

SPECIAL = frozenset(range(258, 263))
# Half characters, whole ones of 1 to 4 bytes, special tokens, merged tokens.
TEXT = "aé€😀\n\n ab�"


@functools.cache
def byte_tokenizer():
    return tiny_llava.merging_tokenizer()


def decode_bytes(tokens):
    return byte_tokenizer().decode(list(tokens), skip_special_tokens=True)


def decode_words(tokens):
    return page_tokenizer_once().decode(list(tokens), skip_special_tokens=True)


@functools.cache
def page_tokenizer_once():
    return page_tokenizer()


def decode_numbers(tokens):
    return tiny_processor._Tokenizer().decode(tokens, skip_special_tokens=True)


KINDS = {
    "bytes": (decode_bytes, SPECIAL, 263),
    "words": (decode_words, frozenset({0, 1, 2}), 50),
    "numbers": (decode_numbers, frozenset(), 40),
}


def plain(decode, tokens):
    """Returns what is given after each token, None for nothing, and the rest."""
    seen, given_text, pieces = [], "", []
    for token in tokens:
        seen.append(token)
        text = decode(seen)
        if text.endswith("\ufffd"):
            pieces.append(None)
            continue
        pieces.append(text[len(given_text) :])
        given_text = text
    return pieces, decode(seen)[len(given_text) :]


def ours(decode, special, tokens):
    pieces = TextPieces(decode, skipped=special)
    return [pieces.add(token) for token in tokens], pieces.rest()


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_pieces_are_those_of_the_plain_way(kind, data):
    decode, special, count = KINDS[kind]
    tokens = data.draw(st.lists(st.integers(0, count - 1), max_size=60))
    if kind == "bytes":
        # Random bytes are hardly ever characters.
        words = data.draw(st.lists(st.sampled_from(TEXT), max_size=20))
        whole = byte_tokenizer().encode("".join(words), add_special_tokens=False)
        place = data.draw(st.integers(0, len(tokens)))
        tokens = [*tokens[:place], *whole, *tokens[place:]]
    assert ours(decode, special, tokens) == plain(decode, tokens)


@pytest.mark.parametrize("case", ["text", "no character", "special", "late"])
def test_a_long_answer_is_decoded_in_linear_time(case):
    count = 4000
    (half, *_) = byte_tokenizer().encode("€", add_special_tokens=False)
    (letter,) = byte_tokenizer().encode("x", add_special_tokens=False)
    tokens = {
        "text": np.random.default_rng(0).permutation(count) % 263,
        "no character": [half] * count,
        "special": [259] * count,
        "late": [half] * (count - 1) + [letter],
    }[case]
    decoded = 0

    def counted(tokens):
        nonlocal decoded
        decoded += len(tokens)
        return decode_bytes(tokens)

    pieces, rest = ours(counted, SPECIAL, [int(token) for token in tokens])
    text = "".join(piece or "" for piece in pieces) + rest
    assert text == decode_bytes([int(token) for token in tokens])
    assert decoded < 30 * count


def cut(decode, special, tokens, stop):
    answer = AnswerText(TextPieces(decode, skipped=special), stop)
    given_pieces = []
    for used, token in enumerate(tokens, 1):
        given_pieces.append(answer.add(token) or "")
        if answer.is_stopped:
            return given_pieces, used
    return [*given_pieces, answer.rest()], len(tokens)


@given(
    tokens=st.lists(st.sampled_from([*range(40, 44), 257]), max_size=30),
    stop=st.lists(
        st.text(alphabet="".join(sorted("IJKLab")), min_size=1, max_size=4),
        min_size=1,
        max_size=3,
    ),
)
def test_an_answer_ends_before_the_first_stop_string(tokens, stop):
    given_pieces, used = cut(decode_bytes, SPECIAL, tokens, stop)
    text = decode_bytes(tokens)
    ends = [
        n
        for n in range(len(tokens) + 1)
        if any(s in decode_bytes(tokens[:n]) for s in stop)
    ]
    if not ends:
        assert ("".join(given_pieces), used) == (text, len(tokens))
        return
    assert used == ends[0]
    seen = decode_bytes(tokens[:used])
    expected = seen[: min(seen.find(s) for s in stop if s in seen)]
    assert "".join(given_pieces) == expected


def test_what_may_begin_a_stop_string_is_held_back():
    tokens = byte_tokenizer().encode("see\n\nUsed: x", add_special_tokens=False)
    given_pieces, used = cut(decode_bytes, SPECIAL, tokens, ["\n\nUser:"])
    assert used == len(tokens)
    assert "".join(given_pieces) == "see\n\nUsed: x"
    # Given only once it cannot be the stop string any more.
    first = next(i for i, piece in enumerate(given_pieces) if "\n" in piece)
    assert given_pieces[first] == "\n\nUsed"
    tokens = byte_tokenizer().encode("see\n\nUser: x", add_special_tokens=False)
    given_pieces, used = cut(decode_bytes, SPECIAL, tokens, ["\n\nUser:"])
    assert "".join(given_pieces) == "see"
    assert used == len(tokens) - 2


def test_the_pieces_of_a_processor_take_linear_time(monkeypatch):
    processor = tiny_processor.processor(CONFIG, eos_id=39)
    decoded = []
    decode = type(processor.tokenizer).decode

    def counted(self, tokens, **options):
        decoded.append(len(tokens))
        return decode(self, tokens, **options)

    monkeypatch.setattr(type(processor.tokenizer), "decode", counted)
    tokens = [number % 30 for number in range(2000)]
    pieces = list(processor.pieces([*tokens, 39, 5]))
    assert pieces[:3] == ["0", " 1", " 2"]
    assert "".join(pieces) == " ".join(map(str, tokens))
    assert sum(decoded) < 30 * len(tokens)
    assert list(processor.pieces(tokens, stop=["3 4"])) == ["0", " 1", " 2", " ", ""]
