"""The text of an answer while its tokens come, and where a stop string ends it.

A token's text depends on the tokens just before it, but not on those long ago: only a
few tokens are decoded for each, so that a long answer costs no more a token than a
short one.

    tokens   a few before     new           text that is given
             "the sea"        + " is"       " is"
             "sea is"         + half of é   nothing yet
             "sea is"         + its rest    "é"
"""

from collections.abc import Callable, Collection, Sequence

# What decoders put in place of bytes that are no character yet.
_INCOMPLETE = "\ufffd"
# Tokens before a new one that its text may depend on.
_CONTEXT = 4
# So many tokens say whether a text ends in the middle of a character: none is longer.
_TAIL = 8

Decode = Callable[[Sequence[int]], str]


class TextPieces:
    """Gives the text of tokens piece by piece; joined, that is the text of all."""

    def __init__(self, decode: Decode, *, skipped: Collection[int] = ()) -> None:
        """Starts without tokens.

        Args:
          decode: gives the text of any tokens.
          skipped: tokens that `decode` leaves out wherever they stand.
        """
        self._decode, self._skipped = decode, skipped
        # The newest tokens, and where among them the text was complete.
        self._tokens: list[int] = []
        self._complete = [0]
        # The text up to the last of these places.
        self._given = ""

    def add(self, token: int) -> str | None:
        """Returns the text that the token completes; None in the midst of a character.

        Text that is None comes with a later token, or with `rest`.
        """
        if token not in self._skipped:
            self._tokens.append(token)
        if len(self._tokens) == self._complete[-1]:
            return ""
        is_long = len(self._tokens) - self._complete[-1] > _TAIL
        # Where no character comes about for long, not all of it again and again.
        if is_long and self._decode(self._tokens[-_TAIL:]).endswith(_INCOMPLETE):
            return None
        text = self._decode(self._tokens)
        if text.endswith(_INCOMPLETE):
            return None
        piece = text[len(self._given) :]
        self._complete.append(len(self._tokens))
        self._given = text
        self._forget()
        return piece

    def rest(self) -> str:
        """Returns the text that is not given yet, once no token follows."""
        if len(self._tokens) == self._complete[-1]:
            return ""
        return self._decode(self._tokens)[len(self._given) :]

    def _forget(self) -> None:
        """Lets tokens go that the text of later ones does not depend on."""
        last = len(self._tokens) - _CONTEXT
        start = max((place for place in self._complete if place <= last), default=0)
        given = self._decode(self._tokens[start:]) if start else ""
        if given:
            self._tokens = self._tokens[start:]
            self._complete = [p - start for p in self._complete if p >= start]
            self._given = given


class AnswerText:
    """Gives the text of an answer piece by piece, up to the first stop string.

    Text that a stop string may begin with is held back until it is known to be none.
    The first string that is complete ends the answer, before its own beginning; of
    several that one token completes, that which begins first.

    is_stopped: whether a stop string was found: then no token is to follow.
    """

    def __init__(self, pieces: TextPieces, stop: Sequence[str] = ()) -> None:
        """Starts without tokens. stop: none of them empty."""
        self._pieces, self._stop = pieces, tuple(stop)
        self._held = ""
        self.is_stopped = False

    def add(self, token: int) -> str | None:
        """Returns the text that is known now to be the answer's, None for none."""
        piece = self._pieces.add(token)
        return None if piece is None else self._until_stop(piece)

    def rest(self) -> str:
        """Returns what was held back, once no token follows; "" after a stop."""
        if self.is_stopped:
            return ""
        found = self._until_stop(self._pieces.rest())
        if not self.is_stopped:
            found, self._held = found + self._held, ""
        return found

    def _until_stop(self, piece: str) -> str:
        if not self._stop:
            return piece
        text = self._held + piece
        starts = [text.find(stop) for stop in self._stop]
        found = [start for start in starts if start >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            return text[: min(found)]
        held = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Returns how long the end of the text is that the stop string begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
