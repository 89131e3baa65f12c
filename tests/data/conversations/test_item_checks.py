"""What becomes a sample: files below the image folder, and which turns are trained."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.data import tiny_llava
from tests.data.conversations import conversation_set
from visor_jax.data.conversations.conversation_set import ConversationSet
from visor_jax.data.conversations.converting.conversion import (
    ConversionSettings,
    convert,
)
from visor_jax.data.conversations.converting.item_checks import (
    BadItemError,
    ImageFolder,
    read_item,
)
from visor_jax.data.conversations.manifest import BAD_ITEMS, MANIFEST, read_manifest
from visor_jax.data.conversations.raw_sample import Conversation

TURNS = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]


def _about(image):
    turns = [TURNS[0] | {"value": "<image>\nWhy?"}, TURNS[1]]
    return {"id": "s7", "image": image, "conversations": turns}


def test_only_images_below_the_folder_are_read(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    folder = tmp_path / "set/images"
    (folder / "sub").mkdir(parents=True)
    for file in (tmp_path / "secret.png", folder / "sub/a.png"):
        file.write_bytes(picture.getvalue())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "away").symlink_to(tmp_path)
    (folder / "inside.png").symlink_to("sub/a.png")
    (folder / "circle.png").symlink_to("circle.png")
    outside = [
        *("../../secret.png", str(tmp_path / "secret.png"), "link.png"),
        *("away/secret.png", "sub/../../../secret.png", "/etc/hostname", ".."),
    ]
    inside = ["sub/a.png", "sub/../sub/a.png", "inside.png", str(folder / "sub/a.png")]
    (tmp_path / "images").symlink_to(folder)
    for root in (folder, tmp_path / "images"):
        for name in outside:
            with pytest.raises(BadItemError, match=r"image outside: .*allow_outside"):
                read_item(_about(name), ImageFolder(root))
        for name in inside:
            sample = read_item(_about(name), ImageFolder(root))
            assert sample.images == (picture.getvalue(),)
    for name in outside[:-2]:
        sample = read_item(_about(name), ImageFolder(folder, allow_outside=True))
        assert sample.images == (picture.getvalue(),)
    with pytest.raises(BadItemError, match="missing image"):
        read_item(_about("circle.png"), ImageFolder(folder))
    # The entry is named where it is left out, and the flag lets it in.
    entries = [_about("sub/a.png"), _about("../../secret.png")]
    (tmp_path / "train.json").write_text(json.dumps(entries))
    settings = {
        "sources": (str(tmp_path / "train.json"),),
        "image_folder": str(folder),
    }
    convert(ConversionSettings(**settings), tmp_path / "out")
    (line,) = (tmp_path / "out" / BAD_ITEMS).read_text().splitlines()
    bad = json.loads(line)
    assert (bad["id"], bad["entry"], bad["reason"]) == ("s7", 1, "image outside")
    allowed = ConversionSettings(**settings, allow_outside=True)
    assert convert(allowed, tmp_path / "all").samples == 2


def test_a_manifest_names_files_of_its_folder_alone(tmp_path):
    copy = conversation_set.draw(tmp_path, 4)
    text = (copy / MANIFEST).read_text()
    (copy / MANIFEST).write_text(text.replace("texts-00000", "../texts-00000"))
    with pytest.raises(ValueError, match="which are no files of it"):
        read_manifest(copy)


def test_turns_that_are_not_to_be_trained_are_remembered():
    said = [*TURNS, TURNS[0] | {"weight": 1}, TURNS[1] | {"weight": 0}]
    said += [TURNS[0] | {"weight": None}, TURNS[1] | {"train": False}]
    sample = read_item({"conversations": said}, None)
    assert sample.conversation.untrained == (3, 5)
    stored = sample.conversation.to_bytes()
    assert Conversation.from_bytes(stored) == sample.conversation
    # What is trained whole is written as it always was.
    assert b"untrained" in stored
    plain = read_item({"conversations": TURNS}, None).conversation
    assert b"untrained" not in plain.to_bytes()
    # An assistant's turn that LLaVA leaves out moves the numbers.
    leading = [TURNS[1], *TURNS, TURNS[0], TURNS[1] | {"weight": 0.0}]
    assert read_item({"conversations": leading}, None).conversation.untrained == (3,)


@pytest.mark.parametrize(
    "mark", [{"weight": 0.5}, {"weight": -1}, {"weight": "0"}, {"train": "no"}]
)
def test_other_weights_are_refused(mark):
    with pytest.raises(BadItemError, match="turn weight"):
        read_item({"conversations": [*TURNS, TURNS[0], TURNS[1] | mark]}, None)


def test_an_entry_of_which_nothing_is_trained_is_refused():
    with pytest.raises(BadItemError, match="turn weight: no answer is to be trained"):
        read_item({"conversations": [TURNS[0], TURNS[1] | {"weight": 0}]}, None)


@pytest.mark.parametrize("supervision", ["assistant", "llava_next"])
def test_a_turn_of_weight_0_is_read_and_has_no_loss(tmp_path, supervision):
    said = [*TURNS, TURNS[0], TURNS[1] | {"value": "No.\nNo."}, TURNS[0], TURNS[1]]
    entry = {"conversations": said}
    unlike = {"conversations": [*said[:3], said[3] | {"weight": 0}, *said[4:]]}
    (tmp_path / "train.json").write_text(json.dumps([entry, unlike]))
    source = ConversionSettings(sources=(str(tmp_path / "train.json"),))
    data = ConversationSet(convert(source, tmp_path / "set"))
    processor = conversation_set.make_processor(supervision=supervision)
    whole, part = (processor.sample(data.sample(row)).layout for row in range(2))
    np.testing.assert_array_equal(part.tokens, whole.tokens)
    # The loss of a token lies one place before it.
    tokenizer = tiny_llava.tokenizer()
    turn = tokenizer("<|im_start|>assistant\nNo.\nNo.<|im_end|>\n")["input_ids"]
    starts = [
        start
        for start in range(len(part.tokens))
        if part.tokens[start : start + len(turn)].tolist() == turn
    ]
    (start,) = starts
    expected = whole.loss_mask.copy()
    assert expected[start - 1 : start - 1 + len(turn)].any()
    expected[start - 1 : start - 1 + len(turn)] = False
    np.testing.assert_array_equal(part.loss_mask, expected)


def test_a_conversation_of_which_nothing_is_trained_cannot_be_measured():
    conversation = Conversation(
        id="", source="", turns=(("user", "a"), ("assistant", "b")), untrained=(1,)
    )
    with pytest.raises(ValueError, match="Nothing to train"):
        conversation_set.make_processor().lengths(conversation)
