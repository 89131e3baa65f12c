"""Tokens of prompts: special ones from the template alone, else as in transformers."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data import tiny_llava
from tests.data.prompts.test_chat_template import CUTS, EVIL, HUB, TRIMS, text
from tests.data.tiny_llava import END, START, question
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.prompts.chat_processor import ChatProcessor
from visor_jax.data.prompts.chat_template import render
from visor_jax.data.prompts.prompt_tokens import tokenise

TOKENIZERS = {
    "bytes": tiny_llava.tokenizer,
    "merging": functools.cache(tiny_llava.merging_tokenizer),
}
TEMPLATES = ("hub", "qwen_1_5", HUB, TRIMS)
PARTS = (
    *("<|im_end|>", "<|im_start|>", "<image>", "<video>", "<|endoftext|>", "\n", "ab"),
    *("<|im_", "end|>", " ", "<", "Ü", "user"),
)
# Texts of all kinds, those that look like special tokens whole or in halves too.
WORDS = st.lists(
    st.sampled_from(PARTS) | st.text(st.characters(exclude_categories=["Cs"])),
    max_size=5,
).map("".join)


def whole(tokenizer, messages, template):
    """Returns the ids of transformers for the prompt's text."""
    if template in ("hub", "qwen_1_5"):
        pieces = render(messages, template, generation_prompt=True)
        prompt = "".join(piece.text for piece in pieces)
        return tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, return_dict=False
    )


@given(st.sampled_from(TEMPLATES), st.sampled_from(sorted(TOKENIZERS)), st.data())
def test_ordinary_texts_have_the_tokens_of_transformers(template, name, data):
    ordinary = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"))
    tokenizer = TOKENIZERS[name]()
    words = [data.draw(ordinary) for _ in range(3)]
    messages = [
        text("system", words[0]),
        text("user", words[1]),
        text("assistant", words[2]),
    ]
    found = tokenise(render(messages, template, generation_prompt=True), tokenizer)
    assert found.ids.tolist() == whole(tokenizer, messages, template)
    assert not found.has_plain_specials


@given(st.sampled_from(TEMPLATES), st.sampled_from(sorted(TOKENIZERS)), WORDS, WORDS)
def test_no_text_adds_a_special_token(template, name, first, second):
    tokenizer = TOKENIZERS[name]()
    specials = tokenizer.convert_tokens_to_ids(list(tiny_llava.SPECIAL))

    def structure(*words):
        messages = [text("user", *words[:2]), text("assistant", words[1])]
        pieces = render(messages, template, generation_prompt=True)
        found = tokenise(pieces, tokenizer)
        assert tokenizer.decode(found.ids) == "".join(piece.text for piece in pieces)
        return [i for i in found.ids.tolist() if i in specials]

    assert structure(first, second) == structure("a", "b")


@given(st.sampled_from(sorted(TOKENIZERS)), WORDS)
def test_offsets_say_where_tokens_stand(name, words):
    tokenizer = TOKENIZERS[name]()
    pieces = render([text("user", words)], "qwen_1_5", generation_prompt=True)
    prompt = "".join(piece.text for piece in pieces)
    found = tokenise(pieces, tokenizer)
    assert (found.starts <= found.ends).all()
    assert (np.diff(found.starts) >= 0).all()
    assert found.ends[-1] == len(prompt)
    for i in np.flatnonzero(found.ids == tokenizer.convert_tokens_to_ids("<|im_end|>")):
        assert prompt[found.starts[i] : found.ends[i]] == "<|im_end|>"


def chat(template="qwen_1_5", **how):
    return ChatProcessor(
        tokenizer=tiny_llava.tokenizer(),
        images=ImageSettings(),
        template=template,
        **how,
    )


@pytest.mark.parametrize("template", ["hub", "qwen_1_5", HUB])
def test_a_turn_cannot_be_ended_from_inside(template):
    """...but with `special_tokens="allow"`, where tokens are those of transformers."""
    messages = question(EVIL, images=0)
    plain = chat(template).prompt(messages).layout.tokens
    calm = chat(template).prompt(question("hi", images=0)).layout.tokens
    for token in (START, END):
        assert (plain == token).sum() == (calm == token).sum()
    tokenizer = tiny_llava.tokenizer()
    allowed = chat(template, special_tokens="allow").prompt(messages).layout.tokens
    assert allowed.tolist() == whole(tokenizer, messages, template)
    assert (allowed == START).sum() == (calm == START).sum() + 1
    assert tokenizer.decode(allowed) == tokenizer.decode(plain)


def test_a_placeholder_is_a_word_where_no_image_is_for_it():
    about = "What is the <image> tag?"
    tokenizer = tiny_llava.tokenizer()
    for messages in (question(about, images=0), [{"role": "user", "content": about}]):
        layout = chat().prompt(messages).layout
        assert layout.media == ()
        assert about in tokenizer.decode(layout.tokens)
        with pytest.raises(ValueError, match="1 places for images"):
            chat(special_tokens="allow").prompt(messages)


def test_a_template_that_mixes_texts_refuses_special_ones():
    tokenizer = tiny_llava.tokenizer()
    pieces = render([text("user", "Why not?")], CUTS, generation_prompt=True)
    expected = tokenizer("<user>Why ")["input_ids"]
    assert tokenise(pieces, tokenizer).ids.tolist() == expected
    pieces = render([text("user", "a<|im_end|>")], CUTS, generation_prompt=True)
    with pytest.raises(ValueError, match=r"hold \['<\|im_end\|>'\].*'allow'"):
        tokenise(pieces, tokenizer)


def test_words_that_were_added_stay_tokens():
    """Only special tokens are nobody's to write; ids of the others do not move."""
    tokenizer = tiny_llava.merging_tokenizer()
    tokenizer.add_tokens(["<tool_call>"], special_tokens=False)
    added = tokenizer.convert_tokens_to_ids("<tool_call>")
    messages = [text("user", "<tool_call>ab<|im_end|>")]
    found = tokenise(render(messages, "hub", generation_prompt=True), tokenizer)
    assert (found.ids == added).sum() == 1
    assert (found.ids == tokenizer.convert_tokens_to_ids("<|im_end|>")).sum() == 1
    assert (found.ids == tokenizer.convert_tokens_to_ids("ab")).sum() == 1


def test_other_choices_are_refused():
    with pytest.raises(ValueError, match="special_tokens='yes' is not one of"):
        chat(special_tokens="yes")
