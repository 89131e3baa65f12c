"""From pieces to tokens: special ones come from the template alone.

A text may hold what looks like a special token, and must not end its turn with it:

    template    <|im_start|>user\\n               <|im_end|>
    given                         Ha!<|im_end|>
    tokens      S user \\n Ha ! < | im _ end | >  E

Where nobody's words look like that, ids are those of the whole text at once, as in
transformers: words may join across pieces. Else the text is cut at the template's own
special tokens, and what lies between two of them is tokenised as if there were none.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int32, Int64
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from visor_jax.data.prompts.chat_template import END, START
from visor_jax.data.prompts.messages import PLACES
from visor_jax.data.prompts.piece import Piece
from visor_jax.runtime.arguments import shown

# What may stand in the texts of messages: words alone, or special tokens like any other
# place of the prompt (then a text can end its turn, and "<image>" is always a place).
SPECIAL_TOKENS = ("plain", "allow")


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of a text, and from where to where in it (characters) each is.

    has_plain_specials: whether a text was given that looks like a special token.
    """

    ids: Int32[np.ndarray, "n"]
    starts: Int64[np.ndarray, "n"]
    ends: Int64[np.ndarray, "n"]
    has_plain_specials: bool = False


def check_special_tokens(choice: str) -> None:
    """Raises ValueError unless this is one of `SPECIAL_TOKENS`."""
    if not isinstance(choice, str) or choice not in SPECIAL_TOKENS:
        raise ValueError(
            f"special_tokens={shown(choice)} is not one of {SPECIAL_TOKENS}."
        )


def check_fast(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ValueError for a tokenizer that cannot say where its tokens stand."""
    if not tokenizer.is_fast:
        raise ValueError("The tokenizer must be a fast one: save its tokenizer.json.")


def tokenise(pieces: Sequence[Piece], tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Returns the tokens of the pieces' texts, joined.

    Raises:
      ValueError: for what is no text in Unicode; or for a text that looks like a
        special token, where the template mixes it with words of its own.
    """
    check_fast(tokenizer)
    text = "".join(piece.text for piece in pieces)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"The prompt is no text in Unicode: {error}.") from error
    specials = _special_tokens(tokenizer, len(tokenizer))
    _check_mixed(pieces, specials)
    encoded = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    found = _tokens(encoded["input_ids"], encoded["offset_mapping"])
    special = np.isin(found.ids, list(specials))
    if not _any_given(pieces, text, found, special):
        return found
    return _with_plain_words(pieces, tokenizer, specials)


@functools.lru_cache(maxsize=8)
def _special_tokens(tokenizer: PreTrainedTokenizerBase, size: int) -> dict[int, str]:
    """Returns {id: text} of what may stand in a prompt through its template alone."""
    del size  # Tokens may be added to a tokenizer.
    structure = (START, END, *PLACES.values())
    return {
        id_: token.content
        for id_, token in tokenizer.added_tokens_decoder.items()
        if token.special or token.content in structure
    }


def _check_mixed(pieces: Sequence[Piece], specials: dict[int, str]) -> None:
    for piece in pieces:
        if isinstance(piece.given, tuple):
            words = "".join(piece.given)
            found = [token for token in specials.values() if token in words]
            if found:
                raise ValueError(
                    f"The messages hold {found}, and the checkpoint's own chat "
                    "template mixes them with words of its own, so that they could "
                    "end a turn: take them out, choose a built-in template, or allow "
                    "them (special_tokens='allow')."
                )


def _tokens(ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> Tokens:
    starts, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    return Tokens(np.array(ids, np.int32), starts, ends)


def _any_given(
    pieces: Sequence[Piece], text: str, tokens: Tokens, special: Bool[np.ndarray, "n"]
) -> bool:
    """Returns whether words that were given are part of a special token."""
    if not any(piece.given is True for piece in pieces):
        return False
    lengths = [len(piece.text) for piece in pieces]
    given = np.repeat([piece.given is True for piece in pieces], lengths)
    for place in np.flatnonzero(special):
        start, end = int(tokens.starts[place]), int(tokens.ends[place])
        # Some special tokens take the blanks beside them.
        blanks = len(text[start:end]) - len(text[start:end].lstrip())
        end = start + len(text[start:end].rstrip())
        if given[start + blanks : end].any():
            return True
    return False


def _with_plain_words(
    pieces: Sequence[Piece],
    tokenizer: PreTrainedTokenizerBase,
    specials: dict[int, str],
) -> Tokens:
    """Returns the tokens of a text, special ones where the template has them."""
    text = "".join(piece.text for piece in pieces)
    plain = _plain_tokenizer(tokenizer, len(tokenizer))
    parts: list[Tokens] = []
    before = 0
    for special in (*_of_template(pieces, tokenizer, specials), None):
        end = len(text) if special is None else int(special.starts[0])
        words = plain.encode(text[before:end], add_special_tokens=False)
        if not specials.keys().isdisjoint(words.ids):
            raise ValueError(
                "The tokenizer has special tokens among its words: text cannot be told "
                "from them."
            )
        found = _tokens(words.ids, words.offsets)
        parts.append(Tokens(found.ids, found.starts + before, found.ends + before))
        if special is not None:
            parts.append(special)
            before = int(special.ends[0])
    fields = ("ids", "starts", "ends")
    joined = (
        np.concatenate([getattr(part, name) for part in parts]) for name in fields
    )
    return Tokens(*joined, has_plain_specials=True)


def _of_template(
    pieces: Sequence[Piece],
    tokenizer: PreTrainedTokenizerBase,
    specials: dict[int, str],
) -> Iterator[Tokens]:
    """Yields each special token of the template with its place in the whole text."""
    place = 0
    for given, stretch in itertools.groupby(pieces, lambda piece: piece.given is True):
        text = "".join(piece.text for piece in stretch)
        if not given:
            encoded = tokenizer(
                text,
                add_special_tokens=False,
                return_offsets_mapping=True,
                verbose=False,
            )
            found = _tokens(encoded["input_ids"], encoded["offset_mapping"])
            for i in np.flatnonzero(np.isin(found.ids, list(specials))):
                one = slice(i, i + 1)
                yield Tokens(
                    found.ids[one], found.starts[one] + place, found.ends[one] + place
                )
        place += len(text)


@functools.lru_cache(maxsize=8)
def _plain_tokenizer(tokenizer: PreTrainedTokenizerBase, size: int) -> Tokenizer:
    """Returns a copy of the tokenizer that finds no special tokens in a text."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    specials = _special_tokens(tokenizer, size)
    for token in state["added_tokens"]:
        token["special"] = token["id"] in specials
    copy = Tokenizer.from_str(json.dumps(state))
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy
