import pytest

from visor_jax.data.pages.questions import QUESTIONS
from visor_jax.data.pages.tokenizer import encode_question, page_tokenizer
from visor_jax.data.pages.words import TOKENS, ids_of
from visor_jax.data.prompts.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return page_tokenizer()


def test_ids_are_the_order_of_the_words(tokenizer):
    assert tokenizer.convert_ids_to_tokens(range(len(TOKENS))) == list(TOKENS)
    assert len(tokenizer) == len(TOKENS) <= 64
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)


def test_every_question_and_answer_is_in_the_vocabulary(tokenizer):
    for question in QUESTIONS:
        ids = encode_question(tokenizer, question.text)
        assert ids == ids_of(f"{question.text} :")
        assert tokenizer.decode(ids) == f"{question.text} :"
        for word in question.words:
            assert len(tokenizer.encode(word, add_special_tokens=False)) == 1


def test_the_end_of_the_prompt_is_added_once(tokenizer):
    expected = encode_question(tokenizer, "bar B")
    assert encode_question(tokenizer, "bar B:") == expected
    assert encode_question(tokenizer, " bar  B :") == expected


def test_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.pad_token_id == tokenizer.pad_token_id
    assert loaded.eos_token_id == tokenizer.eos_token_id
    text = "column of largest digit row 2"
    assert encode_question(loaded, text) == encode_question(tokenizer, text)


def test_unknown_words_are_all_named(tokenizer):
    with pytest.raises(ValueError, match=r"\['what', 'is', '\?'\].*colour ring"):
        encode_question(tokenizer, "what is ring ?")


def test_errors_about_long_questions_are_short(tokenizer):
    with pytest.raises(ValueError, match="Unknown words") as caught:
        encode_question(tokenizer, " ".join(f"word{i}" for i in range(10**5)))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["ring <eos>", "ring<eos>", "<pad> ring", "<unk>"])
def test_special_tokens_are_no_words(tokenizer, text):
    with pytest.raises(ValueError, match=r"Unknown words .*<(eos|pad|unk)>"):
        encode_question(tokenizer, text)


@pytest.mark.parametrize("text", ["", "  ", ":"])
def test_empty_question_is_refused(tokenizer, text):
    with pytest.raises(ValueError, match="empty"):
        encode_question(tokenizer, text)


def test_words_outside_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"\['sum', 'squares'\]"):
        ids_of("sum of squares")
