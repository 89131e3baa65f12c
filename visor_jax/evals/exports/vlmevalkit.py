"""Predictions as VLMEvalKit keeps them: its table's columns, and `prediction`.

Its evaluation (`run.py --mode eval`) reads MODEL/MODEL_DATASET.xlsx: all columns of the
benchmark's table but the pictures, a row a question that was answered.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from visor_jax.evals.answered.lines import Line
from visor_jax.evals.exports.spreadsheet import spreadsheet
from visor_jax.evals.tables.definition import Definition
from visor_jax.evals.tables.find_table import find_table
from visor_jax.evals.tables.tsv_table import IMAGE, TsvTable

# What an answer is there that could not be had.
FAILED = "Failed to obtain answer via API."
_MODEL = "visor_jax"


def file_name(definition: Definition) -> str:
    """Returns what VLMEvalKit calls the file of a model's predictions."""
    return f"{_MODEL}_{definition.tsv}.xlsx"


def content(definition: Definition, lines: Sequence[Line], data: Path) -> bytes:
    """Returns the spreadsheet of these predictions.

    Args:
      data: folder with VLMEvalKit's table, which they were asked from.

    Raises:
      ValueError: if there is none, or predictions are of no row of it.
    """
    table = find_table(definition, data) if definition.tsv_columns else None
    if not isinstance(table, TsvTable):
        raise ValueError(
            f"{definition.name}: VLMEvalKit's columns are those of its table: put "
            f"{definition.tsv or 'one'}.tsv into {data}, which was asked."
        )
    answers: Mapping[str, str | None] = {line["id"]: line["answer"] for line in lines}
    columns = [name for name in table.columns if name != IMAGE]
    found, left = [], dict(answers)
    for number, row in enumerate(table.rows(table.columns)):
        question = definition.read(row, number)
        if question is not None and question.id in answers:
            said = left.pop(question.id)
            cells = [row[name] for name in columns]
            found.append([*cells, FAILED if said is None else said])
    if left:
        raise ValueError(
            f"{definition.name}: {len(left)} of {len(answers)} predictions are of no "
            f"row of {table.file} ({next(iter(left))!r} is one): give the --data that "
            "was asked."
        )
    return spreadsheet([[*columns, "prediction"], *_numbers(found)])


def _numbers(rows: Sequence[Sequence[str]]) -> list[list[str | int]]:
    """Returns the rows with columns of whole numbers as numbers, as pandas reads them.

    Predictions stay texts.
    """
    columns = list(zip(*rows, strict=True))
    read = [
        [int(cell) if cell else "" for cell in column]
        if all(_is_number(cell) for cell in column)
        else list(column)
        for column in columns[:-1]
    ]
    return [list(row) for row in zip(*read, columns[-1], strict=True)]


def _is_number(cell: str) -> bool:
    return cell == "" or (cell.lstrip("-").isdecimal() and str(int(cell)) == cell)
