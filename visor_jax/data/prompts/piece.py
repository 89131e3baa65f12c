"""A stretch of prompt text, and whose it is."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of prompt text.

    turn: whether it belongs to an assistant's turn. answer: whether it is what the
      assistant itself writes there, the token that ends the turn included. given:
      whether it comes from a message: then nothing in it is a special token. If the
      template has mixed it with words of its own, these are the texts that it had.
      trained: whether anything in it may have a loss.
    """

    text: str
    turn: bool = False
    answer: bool = False
    given: bool | tuple[str, ...] = False
    trained: bool = True
