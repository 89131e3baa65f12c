"""Closed vocabularies: every word that pages of one kind are asked with, in order."""

import dataclasses
import functools
import re

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
# Ends every question; the answer is what the network writes after it.
PROMPT_END = ":"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Tokens in the order of their ids, and what one token is in a text.

    The order is part of every checkpoint: append, never insert.

    pattern: regular expression of a token; what it does not match stands between them.
    """

    tokens: tuple[str, ...]
    pattern: str

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """The id of every token."""
        return {token: i for i, token in enumerate(self.tokens)}

    def ids_of(self, text: str) -> list[int]:
        """Returns the token ids of words and places separated by blanks.

        Raises:
          ValueError: for words outside the vocabulary; all of them are named.
        """
        words = re.findall(self.pattern, text)
        unknown = [word for word in words if word not in self.ids]
        if unknown:
            raise ValueError(
                f"Unknown words {unknown} in {text!r}; known are {list(self.tokens)}."
            )
        return [self.ids[word] for word in words]
