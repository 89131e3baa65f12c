"""A question of a known benchmark: all that scoring it needs.

It goes into the predictions, so that they can be scored again without data and without
a network.
"""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """One question, without its pictures.

    id: no other of the benchmark has it. prompt: as the network gets it, behind the
    pictures. references: what is right, of every annotator. group: what it shares with
    others that vary with it; "" for its picture. category: the benchmark's division.
    choices: texts of the options A, B, ... kind: how its answer is read, where that
    differs within the benchmark.
    """

    id: str
    prompt: str
    references: tuple[str, ...]
    group: str = ""
    category: str = ""
    choices: tuple[str, ...] = ()
    kind: str = ""
