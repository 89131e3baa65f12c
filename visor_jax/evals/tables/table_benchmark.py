"""A known benchmark with its rows: questions in the order of their pictures.

Texts are read once and kept; pictures are only looked at, for a digest, and read again
when they are asked about, one after the other. Questions about one picture stand
together, wherever their rows are, so that the engine reads it once.
"""

import dataclasses
import hashlib
import json
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.request import Request
from visor_jax.evals.benchmark import Example, PackedBatch
from visor_jax.evals.tables import cells
from visor_jax.evals.tables import limit as limits
from visor_jax.evals.tables.definition import Definition
from visor_jax.evals.tables.find_table import Table, find_pictures, find_table
from visor_jax.evals.tables.question import Question
from visor_jax.evals.tables.tsv_table import TsvTable
from visor_jax.runtime.user_error import UserError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TableBenchmark:
    """The questions of a known benchmark; a `Benchmark` like any other.

    table: the rows, in the folder or below it. questions: by id, in the order of the
    rows. picture_of: digest of a question's pictures, by its id. limit: of
    the questions, None for all. there_are: questions without a limit.
    """

    definition: Definition
    folder: Path
    table: Table
    questions: Mapping[str, Question]
    picture_of: Mapping[str, str]
    there_are: int
    limit: int | None = None
    cluster_name: str = "image"

    @classmethod
    def open(
        cls, definition: Definition, folder: Path, *, limit: int | None = None
    ) -> "TableBenchmark":
        """Returns the benchmark with the rows below a folder.

        Args:
          limit: of whole groups, spread evenly, so many questions or a few more.

        Raises:
          ValueError: if there are no rows, a row is none of this benchmark, or two
            questions have one id.
        """
        limits.check_limit(limit)
        table = find_table(definition, folder)
        elsewhere = _digests_elsewhere(definition, folder, table)
        questions: dict[str, Question] = {}
        picture_of: dict[str, str] = {}
        for number, row in enumerate(table.rows(_columns(definition, table))):
            question, picture = _read(definition, row, number, elsewhere)
            if question is None:
                continue
            if question.id in questions:
                raise ValueError(
                    f"{definition.name}: id {question.id!r} is there twice."
                )
            questions[question.id], picture_of[question.id] = question, picture
        if not questions:
            raise ValueError(f"{definition.name}: no row of {folder} is a question.")
        kept = questions if limit is None else _spread(questions, limit)
        return cls(
            definition=definition,
            folder=folder,
            table=table,
            questions=kept,
            picture_of={name: picture_of[name] for name in kept},
            there_are=len(questions),
            limit=limit,
        )

    @property
    def name(self) -> str:
        """The benchmark's name."""
        return self.definition.name

    @property
    def split(self) -> str:
        """The split that its rows are of."""
        return self.definition.source.split

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Categories are in no groups here."""
        return {}

    @property
    def new_tokens(self) -> int:
        """Most tokens of an answer."""
        return self.definition.new_tokens

    @property
    def categories(self) -> list[str]:
        """The categories that there are."""
        found = {question.category for question in self.questions.values()}
        return sorted(found - {""})

    @property
    def limited(self) -> str | None:
        """What there is to say of its limit; None without one."""
        return limits.sentence(self.name, self.identity())

    def __len__(self) -> int:
        return len(self.questions)

    def identity(self) -> dict[str, Any]:
        """Returns what was asked: data set, split, and a digest of ids, prompts and
        references, whatever their order."""
        asked = sorted((q.id, q.prompt, q.references) for q in self.questions.values())
        return {
            "data_set": self.definition.source.ids[0],
            "config": self.definition.source.config,
            "split": self.split,
            **limits.identity_of(self.limit, len(self), self.there_are),
            "data_digest": _digest(json.dumps(asked).encode()),
        }

    def examples(self, without: Container[str] = ()) -> Iterator[Example]:
        """Yields the questions, those about one picture together.

        Args:
          without: ids of questions that are left out; pictures of theirs alone are not
            read.

        Raises:
          UserError: if a picture is not there any more.
        """
        waiting: dict[str, list[Question]] = {}
        for question in self.questions.values():
            if question.id not in without:
                waiting.setdefault(self.picture_of[question.id], []).append(question)
        for picture, content in self._pictures():
            for question in waiting.pop(picture, ()):
                yield self._example(question, picture, content)
            if not waiting:
                return
        if waiting:
            some = next(iter(waiting.values()))[0].id
            raise UserError(
                f"{self.name}: the picture of question {some!r} is gone from "
                f"{self.folder}: its files changed meanwhile."
            )

    def score(self, example: Example, answer: str) -> dict[str, float]:
        """Returns the score of an answer, under the metric's name."""
        _, score = self.definition.score(self.questions[example.id], answer.strip())
        return {self.definition.metric: score}

    def packed(self) -> Iterator[PackedBatch] | None:
        """Returns None: every question is asked by itself."""
        return None

    def request_digest(self, question_id: str) -> str:
        """Returns 16 hexadecimal digits of a question's prompt, pictures and limit."""
        asked = [
            self.questions[question_id].prompt,
            self.picture_of[question_id],
            self.new_tokens,
        ]
        return _digest(json.dumps(asked).encode())

    def _pictures(self) -> Iterator[tuple[str, list[bytes]]]:
        """Yields (digest, pictures) of every row."""
        definition = self.definition
        table = self.table
        if _lies_elsewhere(definition, table):
            table = find_pictures(definition, self.folder)
        for row in table.rows(_columns(definition, table)):
            content = _pictures_of(definition, row)
            yield _digest(*content), content

    def _example(
        self, question: Question, picture: str, content: list[bytes]
    ) -> Example:
        parts: list[dict[str, Any]] = [{"type": "image"} for _ in content]
        parts.append({"type": "text", "text": question.prompt})
        # A message, since "<image>" in a question's text is no place of one.
        request = Request(
            [{"role": "user", "content": parts}],
            content or None,
            options=AnswerOptions(max_new_tokens=self.new_tokens),
        )
        return Example(
            id=question.id,
            task=question.category or self.name,
            cluster=question.group or picture,
            request=request,
            references=question.references or ("",),
        )


def _spread(questions: Mapping[str, Question], limit: int) -> dict[str, Question]:
    """Returns the questions of some groups, as many as the limit says or a few more."""
    groups: dict[str, list[str]] = {}
    for question in questions.values():
        groups.setdefault(question.group, []).append(question.id)
    members = list(groups.values())
    places = limits.spread_groups([len(each) for each in members], limit)
    taken = {name for place in places for name in members[place]}
    return {name: each for name, each in questions.items() if name in taken}


def _columns(definition: Definition, table: Table) -> tuple[str, ...]:
    """Returns the columns to read: of a table of VLMEvalKit all of them."""
    if isinstance(table, TsvTable):
        return table.columns
    keys = definition.picture_key.values()
    names = (
        *definition.columns,
        *definition.other_columns,
        *definition.pictures,
        *keys,
    )
    return tuple(dict.fromkeys(names))


def _lies_elsewhere(definition: Definition, table: Table) -> bool:
    return definition.picture_source is not None and "image" not in table.columns


def _digests_elsewhere(
    definition: Definition, folder: Path, table: Table
) -> Mapping[str, str] | None:
    """Returns {key: digest} of pictures in their own table; None if in the rows."""
    if not _lies_elsewhere(definition, table):
        return None
    ((_, key),) = definition.picture_key.items()
    rows = find_pictures(definition, folder).rows((key, *definition.pictures))
    return {str(row[key]): _digest(*_pictures_of(definition, row)) for row in rows}


def _read(
    definition: Definition,
    row: cells.Row,
    number: int,
    elsewhere: Mapping[str, str] | None,
) -> tuple[Question | None, str]:
    """Returns the question of a row and the digest of its pictures."""
    try:
        question = definition.read(row, number)
        if question is None:
            return None, ""
        if elsewhere is not None:
            ((column, _),) = definition.picture_key.items()
            picture = str(row[column])
            if picture not in elsewhere:
                raise ValueError(f"there is no picture {picture!r}.")
            digest = elsewhere[picture]
        else:
            digest = _digest(*_pictures_of(definition, row))
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{definition.name}, row {number}: {error}") from error
    if not question.group:
        question = dataclasses.replace(question, group=digest)
    return question, digest


def _pictures_of(definition: Definition, row: cells.Row) -> list[bytes]:
    if definition.pictures_of is not None:
        return definition.pictures_of(row)
    columns = definition.pictures
    return cells.pictures(row, *dict.fromkeys((*columns, "image")))


def _digest(*contents: bytes) -> str:
    """Returns 16 hexadecimal digits of one or several contents."""
    found = hashlib.blake2b(digest_size=8)
    for content in contents:
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return found.hexdigest()
