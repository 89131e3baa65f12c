"""easy-VQA's questions: splits, kinds, answering blind."""

import collections
import importlib.util

import pytest

from tests.data.easy_vqa import made_up
from visor_jax.data.easy_vqa.processor import make_tokenizer
from visor_jax.data.easy_vqa.questions import (
    DEV,
    KINDS,
    TEST,
    TRAIN,
    EasyQuestion,
    accuracy_by_kind,
    blind_answers,
    kind_of,
    package_data,
    picture_of,
    read_split,
)


def test_splits_share_no_picture(tmp_path):
    data = made_up.write(tmp_path)
    found = {split: read_split(data, split) for split in (TRAIN, DEV, TEST)}
    assert {each.image for each in found[TRAIN]} == {0, 1, 3799}
    assert {each.image for each in found[DEV]} == {3800}
    assert [each.id for each in found[DEV]] == [f"train-{n}" for n in range(12, 16)]
    assert found[TEST][0].id == "test-0"
    assert tuple(each.kind for each in found[TEST][:4]) == (
        *("colour", "shape", "yes_no", "negated"),
    )
    assert picture_of(data, DEV, 3800).parent.parent.name == "train"
    with pytest.raises(ValueError, match="install easy-vqa again"):
        picture_of(data, TEST, 3800)
    (data / "train/questions.json").write_text('[["what?", "red"]]')
    with pytest.raises(ValueError, match="no questions of easy-vqa"):
        read_split(data, TRAIN)


def test_a_negation_is_a_word():
    assert kind_of("is there not a red shape?", "yes") == "negated"
    assert kind_of("is no red shape present?", "no") == "negated"
    assert kind_of("is there a knot?", "no") == "yes_no"


def question(text, answer):
    return EasyQuestion(
        id="0", text=text, answer=answer, image=0, kind=kind_of(text, answer)
    )


def test_blind_answers_are_majorities():
    train = [question("a?", x) for x in ("red", "blue", "blue")]
    train += [question("b?", x) for x in ("yes", "no")]
    assert blind_answers(train) == {"a?": "blue", "b?": "yes"}
    asked = [question("a?", "blue"), question("a?", "red"), question("c?", "no")]
    found = accuracy_by_kind(blind_answers(train), asked)
    assert found == {"all": pytest.approx(1 / 3), "colour": 0.5, "yes_no": 0.0}


def test_words_of_the_questions_are_tokens_and_any_text_survives():
    texts = ["what is the teal shape?\nAnswer.", "teal"]
    tokenizer = make_tokenizer(texts)
    assert tokenizer.get_vocab() == make_tokenizer(texts).get_vocab()
    for word in ("teal", " teal", " shape", "?", "\n"):
        assert len(tokenizer.encode(word)) == 1, word
    assert len(tokenizer.encode("what is the teal shape?\nAnswer.")) == 9
    other = "Ünknown <words> 7"
    assert tokenizer.decode(tokenizer.encode(other)) == other
    ends = tokenizer.encode("<|im_end|>teal<|im_end|>")
    assert ends[0] == ends[2] == tokenizer.eos_token_id


def test_what_every_prompt_says_is_a_token_a_sentence():
    sentence = "\nAnswer (in 1 word), it's one."
    texts = ["what is the teal shape?" + sentence, "teal"]
    tokenizer = make_tokenizer(texts, [sentence])
    system = "system\nYou are a helpful assistant."
    for whole in (sentence, system, "user\n", "assistant\n"):
        assert len(tokenizer.encode(whole)) == 1, whole
    prompt = f"<|im_start|>{system}<|im_end|>\n{texts[0]}"
    ids = tokenizer.encode(prompt)
    assert len(ids) == 4 + 6 + 1
    assert tokenizer.decode(ids) == prompt
    # A word of the sentence is none of the questions' words.
    assert len(tokenizer.encode("Answer")) > 1


@pytest.mark.skipif(
    importlib.util.find_spec("easy_vqa") is None,
    reason="needs the package: pip install -e '.[easy-vqa]'",
)
def test_the_published_data_answers_blind_as_is_known():
    data = package_data()
    found = {split: read_split(data, split) for split in (TRAIN, DEV, TEST)}
    train = [*found[TRAIN], *found[DEV]]
    assert (len(train), len(found[TEST])) == (38575, 9673)
    assert len({each.text for each in train}) == 107
    assert {each.text for each in found[TEST]} == {each.text for each in train}
    counts = collections.Counter(each.kind for each in found[TEST])
    assert [counts[kind] for kind in KINDS] == [3531, 3605, 1280, 1257]
    blind = accuracy_by_kind(blind_answers(train), found[TEST])
    shown = {kind: round(100 * share, 1) for kind, share in blind.items()}
    assert shown == {
        **{"all": 67.0, "yes_no": 82.3, "negated": 82.8},
        **{"colour": 12.0, "shape": 34.8},
    }
