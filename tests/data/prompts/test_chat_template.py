"""Prompt text, against the templates that Hugging Face and LLaVA-NeXT have."""

import base64

import jinja2
import pytest

from tests.data.tiny_llava import question
from visor_jax.data.prompts.chat_template import media, render

# chat_template.json of the llava-hf checkpoints, without the tags that mark what an
# assistant generates.
HUB = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}"
    "{{ '<video>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\\n' + content['text'] }}{% endfor %}"
    "{{'<|im_end|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def text(role, *texts):
    return {"role": role, "content": [{"type": "text", "text": t} for t in texts]}


DIALOGUE = [
    *question("What is it?", images=2, videos=1),
    text("assistant", "A page."),
    text("user", "And this?", "Say why."),
    text("assistant", "Ünïcode 界."),
]
CONVERSATIONS = {
    "question": question(),
    "images": question(images=3),
    "dialogue": DIALOGUE,
    "system": [text("system", "Be brief."), *question()],
    "silent": [{"role": "user", "content": [{"type": "image"}]}],
    "empty": [{"role": "user", "content": []}],
}


def joined(messages, template, generation_prompt=True):
    pieces = render(messages, template, generation_prompt=generation_prompt)
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("generation_prompt", [True, False])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_hub_template(name, generation_prompt):
    expected = jinja2.Template(HUB).render(
        messages=CONVERSATIONS[name], add_generation_prompt=generation_prompt
    )
    assert joined(CONVERSATIONS[name], "hub", generation_prompt) == expected


def test_the_template_of_the_training():
    head = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    tail = "<|im_end|>\n<|im_start|>assistant\n"
    assert joined(question(), "qwen_1_5") == (
        f"{head}<|im_start|>user\n<image>\nWhy?{tail}"
    )
    assert joined(question(images=2), "qwen_1_5") == (
        f"{head}<|im_start|>user\n<image> <image>\nWhy?{tail}"
    )
    assert joined(question(images=0), "qwen_1_5") == (
        f"{head}<|im_start|>user\nWhy?{tail}"
    )
    assert joined(CONVERSATIONS["system"], "qwen_1_5").startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image>\n"
    )
    assert joined(DIALOGUE, "qwen_1_5", False) == (
        f"{head}<|im_start|>user\n<image> <image> <video>\nWhat is it?<|im_end|>\n"
        "<|im_start|>assistant\nA page.<|im_end|>\n"
        "<|im_start|>user\nAnd this?\nSay why.<|im_end|>\n"
        "<|im_start|>assistant\nÜnïcode 界.<|im_end|>\n"
    )


def test_placeholders_inside_a_text_stay_where_they_are():
    message = {"role": "user", "content": "First <image>, then <image>."}
    assert "user\nFirst <image>, then <image>.<|im_end|>" in joined(
        [message], "qwen_1_5"
    )
    assert "user \nFirst <image>, then <image>.<|im_end|>" in joined([message], "hub")


@pytest.mark.parametrize("template", ["hub", "qwen_1_5"])
def test_answers_are_marked(template):
    pieces = render(DIALOGUE, template, generation_prompt=False)
    answers = [piece.text.strip() for piece in pieces if piece.answer]
    assert answers == ["A page.<|im_end|>", "Ünïcode 界.<|im_end|>"]
    turns = "".join(piece.text for piece in pieces if piece.turn)
    assert turns.count("<|im_start|>assistant") == 2
    assert "user" not in turns


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "at least one"),
        ("What is it?", "list of messages"),
        ({"role": "user", "content": "?"}, "list of messages"),
        (["What?"], "message 0: needs 'role' and 'content'"),
        ([{"role": "user"}], "message 0: needs"),
        ([*question(), {"role": "tool", "content": ""}], "message 1: role 'tool'"),
        ([{"role": "user", "content": None}], "content is a NoneType"),
        ([{"role": "user", "content": ["text"]}], "part 'text' has no type"),
        ([{"role": "user", "content": [{"type": "audio"}]}], "has no type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "has no 'text'"),
    ],
)
def test_other_messages_are_refused(messages, problem):
    with pytest.raises(ValueError, match=problem):
        render(messages, "hub", generation_prompt=True)


def test_unknown_templates_are_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"'llama'.*\['hub', 'qwen_1_5'\]"):
        render(question(), "llama", generation_prompt=True)


def images(*parts):
    return [{"role": "user", "content": [{"type": "image", **p} for p in parts]}]


def test_media_are_found_in_the_messages():
    encoded = base64.b64encode(b"pixels").decode()
    found = media(
        images(
            {"image": "a.png"},
            {"path": "b.png"},
            {"url": "file:///c.png"},
            {"base64": encoded},
            {"url": f"data:image/png;base64,{encoded}"},
        ),
        "image",
    )
    assert found == ["a.png", "b.png", "/c.png", b"pixels", b"pixels"]
    assert media(question(), "image") == []
    video = {"type": "video", "video": ["1.png", "2.png"]}
    messages = [{"role": "user", "content": [video]}]
    assert media(messages, "video") == [["1.png", "2.png"]]
    assert media(messages, "image") == []


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([{"image": "a.png"}, {}], "1 of 2 image parts"),
        ([{"url": "https://a.b/c.png"}], "download it first"),
        ([{"image": "a.png", "path": "a.png"}], "choose one"),
        ([{"base64": "no base64!"}], "cannot be decoded"),
        ([{"url": "data:image/png;base64"}], "empty"),
    ],
)
def test_media_that_cannot_be_had_are_refused(parts, problem):
    if problem == "empty":
        assert media(images(*parts), "image") == [b""]
        return
    with pytest.raises(ValueError, match=problem):
        media(images(*parts), "image")
