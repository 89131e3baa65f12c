"""Both streams of a prompt, against the sequence that transformers would build."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data import tiny_llava
from tests.data.prompts.test_chat_template import CONVERSATIONS, DIALOGUE, text
from tests.data.tiny_llava import END, IMAGE, START, VIDEO, question
from visor_jax.data.prompts.chat_template import TEMPLATES, render
from visor_jax.data.prompts.piece import Piece
from visor_jax.data.prompts.token_layout import lay_out

TOKENIZER = tiny_llava.tokenizer()


def of(messages, template="qwen_1_5", *, training=False, **arguments):
    beside = {k: len(arguments.get(k, ())) for k in ("images", "videos")}
    pieces = render(messages, template, generation_prompt=not training, **beside)
    return lay_out(pieces, TOKENIZER, **arguments)


def expanded(messages, template, images, videos, generation_prompt=True):
    """Returns the ids as transformers makes them: placeholders repeated in the text."""
    pieces = render(messages, template, generation_prompt=generation_prompt)
    whole = "".join(piece.text for piece in pieces)
    for token, counts in (("<image>", images), ("<video>", videos)):
        head, *rest = whole.split(token)
        whole = head
        for count, tail in zip(counts, rest, strict=True):
            whole += token * count + tail
    return np.array(TOKENIZER(whole)["input_ids"])


@given(
    st.sampled_from(sorted(TEMPLATES)),
    st.lists(st.integers(1, 9), max_size=3),
    st.lists(st.integers(1, 9), max_size=2),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
def test_streams_are_the_expanded_sequence_taken_apart(template, images, videos, words):
    messages = question(words, images=len(images), videos=len(videos))
    layout = of(messages, template, images=images, videos=videos)
    ids = expanded(messages, template, images, videos)
    places = np.isin(ids, [IMAGE, VIDEO])
    np.testing.assert_array_equal(layout.tokens, ids[~places])
    np.testing.assert_array_equal(layout.text_positions, np.flatnonzero(~places))
    np.testing.assert_array_equal(layout.image_positions, np.flatnonzero(places))
    assert layout.length == len(ids)
    assert not layout.loss_mask.any()
    kinds = ["image"] * len(images) + ["video"] * len(videos)
    assert [kind for kind, _ in layout.media] == kinds


def test_media_are_numbered_by_kind_in_the_order_of_the_text():
    message = {"role": "user", "content": "<video> <image> <video>"}
    layout = of([message], images=[3], videos=[2, 1])
    assert layout.media == (("video", 0), ("image", 0), ("video", 1))
    gaps = np.diff(layout.image_positions)
    assert gaps.tolist() == [1, 2, 1, 1, 2]


def labels_of_llava_next(conversation, images):
    """Returns (ids, labels) of `preprocess_qwen`, written after its description.

    Turn by turn: assistant turns are labels, headers included, and so is every line
    break, start and end of a turn. Placeholders are expanded, never labels.
    """
    newline = TOKENIZER("\n")["input_ids"]
    ids, labels = [], []
    for role, words in [("system", "You are a helpful assistant."), *conversation]:
        turn = TOKENIZER(f"<|im_start|>{role}\n{words}<|im_end|>\n")["input_ids"]
        for i in turn:
            trained = role == "assistant" or i in (*newline, START, END)
            count = images.pop(0) if i == IMAGE else 1
            ids += [i] * count
            labels += [i if trained and i != IMAGE else -100] * count
    return np.array(ids), np.array(labels)


def test_loss_of_llava_next():
    conversation = [
        ("user", "<image>\nWhat is it?"),
        ("assistant", "A page.\n\nTwo lines."),
        ("user", "Why?"),
        ("assistant", "So."),
    ]
    messages = [{"role": role, "content": words} for role, words in conversation]
    layout = of(messages, training=True, images=[5], supervision="llava_next")
    ids, labels = labels_of_llava_next(conversation, [5])
    is_text = ids != IMAGE
    np.testing.assert_array_equal(layout.tokens, ids[is_text])
    # The logits of place i predict place i + 1; those of images do not exist.
    expected = np.append(labels[1:], -100)[is_text]
    found = np.where(layout.loss_mask, layout.targets, -100)
    np.testing.assert_array_equal(found, expected)
    missed = np.append(labels[1:], -100)[~is_text]
    assert (missed != -100).sum() == 1, "the line break after the image"


@pytest.mark.parametrize("template", TEMPLATES)
def test_loss_on_the_assistants_words(template):
    layout = of(
        DIALOGUE,
        template,
        training=True,
        images=[2, 3],
        videos=[4],
        supervision="assistant",
    )
    trained = TOKENIZER.decode(layout.targets[layout.loss_mask])
    expected = "A page.<|im_end|>Ünïcode 界.<|im_end|>"
    if template == "hub":
        expected = "\nA page.<|im_end|>\nÜnïcode 界.<|im_end|>"
    assert trained == expected
    following = np.append(layout.tokens[1:], -1)
    assert (layout.targets == following)[layout.loss_mask].all()


def test_drawn_example():
    """The picture at the top of `token_layout`, with bytes for words."""
    pieces = [
        Piece("u\n<image>\nw?"),
        Piece("a\n", True),
        Piece("s.<|im_end|>", True, True),
    ]
    layout = lay_out(pieces, TOKENIZER, images=[3], supervision="assistant")
    positions = [0, 1, 5, 6, 7, 8, 9, 10, 11, 12]
    assert layout.text_positions.tolist() == positions
    assert layout.image_positions.tolist() == [2, 3, 4]
    assert layout.loss_mask.tolist() == [*[False] * 6, True, True, True, False]
    assert TOKENIZER.decode(layout.targets[6:9]) == "s.<|im_end|>"


def test_words_are_tokenised_across_pieces_as_in_transformers():
    """A line break that the answer begins with joins the header's."""
    merging = tiny_llava.merging_tokenizer()
    messages = [text("user", "ab"), text("assistant", "\nab")]
    pieces = render(messages, "qwen_1_5", generation_prompt=False)
    whole = "".join(piece.text for piece in pieces)
    layout = lay_out(pieces, merging, supervision="assistant")
    assert layout.tokens.tolist() == merging(whole)["input_ids"]
    trained = merging.convert_ids_to_tokens(layout.targets[layout.loss_mask])
    assert trained == ["ĊĊ", "ab", "<|im_end|>"]


@pytest.mark.parametrize(
    ("messages", "given", "problem"),
    [
        (question(), {}, r"1 places for images \('<image>'\) but 0 images"),
        (question(images=0), {"images": [4]}, "0 places for images"),
        (question(images=2), {"images": [4]}, "2 places for images.* 1 images"),
        (question("a <image>", images=0), {"images": [4]}, "text like any other"),
        (
            [{"role": "user", "content": "<image> <image>"}],
            {"images": [4]},
            "2 places for images",
        ),
        (question(videos=1), {"images": [4]}, "1 places for videos"),
    ],
)
def test_places_and_images_must_match(messages, given, problem):
    with pytest.raises(ValueError, match=problem):
        of(messages, **given)


def test_a_prompt_beyond_the_context_is_refused():
    length = of(question(), images=[100]).length
    assert of(question(), images=[100], max_length=length).length == length
    with pytest.raises(ValueError, match=rf"{length} tokens .*\(.* 100 of images\)"):
        of(question(), images=[100], max_length=length - 1)


def test_other_mistakes_are_named():
    with pytest.raises(ValueError, match="Nothing to train"):
        of(question(), training=True, images=[4], supervision="assistant")
    with pytest.raises(ValueError, match="supervision='all'"):
        of(question(), images=[4], supervision="all")
    with pytest.raises(ValueError, match="no text in Unicode"):
        of(question("\ud800"), images=[4])


def test_another_tokenizer_is_refused():
    from visor_jax.data.pages.tokenizer import page_tokenizer

    pieces = render(CONVERSATIONS["question"], "hub", generation_prompt=True)
    with pytest.raises(ValueError, match="does not know '<image>'"):
        lay_out(pieces, page_tokenizer(), images=[4])
