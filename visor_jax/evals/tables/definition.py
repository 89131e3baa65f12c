"""What a known benchmark is: its rows, its prompts, how answers score and add up.

Everything else (files, pictures, asking, intervals) is the same for all of them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from visor_jax.evals.answered.figure import Figure
from visor_jax.evals.tables.cells import Row
from visor_jax.evals.tables.question import Question


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows come from: ids of one data set on the hub, configuration and split."""

    ids: tuple[str, ...]
    split: str
    config: str = ""


# Returns what the answer was read as, None for nothing, and its score in 0..1; NaN for
# a question that cannot be scored.
Scoring = Callable[[Question, str], tuple[str | None, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Definition:
    """A known benchmark.

    columns: that rows of the hub must have. tsv: the name of VLMEvalKit's table;
    tsv_columns: that it must have, () where it says less than is asked for.
    other_columns: that are read if they are there. pictures: columns of pictures, of
    which `pictures_of` takes a row's; None for all of them.
    picture_source, picture_key: where pictures lie in a table of their own, that table
    and the columns {of the rows: of the table} that name a picture.
    read: a question of a row and its number; None for a row that is not asked.
    score: of one answer. figures: of the answers together, for the categories that
    there are, the headline first. new_tokens: most tokens of an answer.
    made_by: the command that writes its files; "" for those of the hub.
    count: questions, as published; None if nobody counted.
    """

    name: str
    source: Source
    columns: tuple[str, ...]
    read: Callable[[Row, int], Question | None]
    score: Scoring
    figures: Callable[[Sequence[str]], Sequence[Figure]]
    metric: str
    new_tokens: int
    count: int | None = None
    tsv: str = ""
    tsv_columns: tuple[str, ...] = ()
    other_columns: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ("image",)
    pictures_of: Callable[[Row], list[bytes]] | None = None
    picture_source: Source | None = None
    picture_key: Mapping[str, str] = dataclasses.field(default_factory=dict)
    made_by: str = ""
