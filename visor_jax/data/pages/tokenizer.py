"""The word-level tokenizer of the embedded benchmark, as a Hugging Face tokenizer."""

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from visor_jax.data.pages.vocabulary import EOS, PAD, PROMPT_END, UNKNOWN, Vocabulary
from visor_jax.data.pages.words import WORDS
from visor_jax.runtime.arguments import shown

# Unknown words that an error names.
_MOST_NAMED = 20


def page_tokenizer(vocabulary: Vocabulary = WORDS) -> PreTrainedTokenizerFast:
    """Returns the tokenizer; token ids are the order of the vocabulary's tokens."""
    tokenizer = Tokenizer(WordLevel(dict(vocabulary.ids), unk_token=UNKNOWN))
    # Inverted: what matches the pattern is kept, the blanks between are removed.
    tokenizer.pre_tokenizer = Split(Regex(vocabulary.pattern), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN
    )


def encode_question(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Returns the ids of a question's words and of the ":" that ends the prompt.

    Raises:
      ValueError: for an empty question, or words the tokenizer does not know; all of
        them are named, and so are the known ones.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"The question is no text in Unicode: {error}.") from error
    ids = tokenizer.encode(text, add_special_tokens=False)
    words = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    special = set(tokenizer.all_special_tokens)
    id_of = tokenizer.backend_tokenizer.token_to_id
    unknown = [word for word, _ in words if word in special or id_of(word) is None]
    unknown += [word for word in special if word in text and word not in unknown]
    if unknown:
        vocabulary = tokenizer.get_vocab()
        known = {word: i for word, i in vocabulary.items() if word not in special}
        listed = sorted(known, key=known.get)
        raise ValueError(
            f"Unknown words [{', '.join(map(shown, unknown[:_MOST_NAMED]))}] in the "
            f"question {shown(text)}. "
            "Known words are: "
            f"{' '.join(listed)}"
        )
    end = id_of(PROMPT_END)
    if not [i for i in ids if i != end]:
        raise ValueError("The question is empty: ask for example 'page colour'.")
    return ids if ids[-1] == end else [*ids, end]
