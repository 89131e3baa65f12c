"""What the cells of a benchmark's rows say, whichever form they come in.

Files of the hub have lists and pictures as {"bytes", "path"}; tables of VLMEvalKit have
texts alone: a list is Python's text of one, an option that is not there is "nan".
"""

import ast
import math
import string
from collections.abc import Mapping, Sequence
from typing import Any

from visor_jax.runtime.arguments import shown

# By column; cells of pictures hold bytes in any of the forms below.
Row = Mapping[str, Any]


def is_missing(cell: Any) -> bool:
    """Returns whether a cell says nothing: None, an empty text, a NaN or its text."""
    if isinstance(cell, float):
        return math.isnan(cell)
    return cell is None or (isinstance(cell, str) and cell in ("", "nan"))


def text(row: Row, *columns: str) -> str:
    """Returns the first of these columns that says something, as a text.

    Raises:
      ValueError: if none does.
    """
    found = optional(row, *columns)
    if found is None:
        raise ValueError(f"there is nothing in {' or '.join(columns)}.")
    return found


def optional(row: Row, *columns: str) -> str | None:
    """Returns the first of these columns that says something, None if none does."""
    for column in columns:
        if not is_missing(row.get(column)):
            return str(row[column])
    return None


def texts(cell: Any) -> tuple[str, ...]:
    """Returns the texts of a list, of records with an "answer", or of a text of a list.

    A text that is none of a list is the only one.
    """
    if isinstance(cell, str):
        cell = _list_of(cell)
    if is_missing(cell):
        return ()
    if isinstance(cell, Mapping):  # Columns of records.
        cell = cell["answer"]
    if not isinstance(cell, Sequence) or isinstance(cell, str):
        return (str(cell),)
    records = (each["answer"] if isinstance(each, Mapping) else each for each in cell)
    return tuple(str(each) for each in records)


def options(row: Row, *columns: str) -> tuple[str, ...]:
    """Returns the texts of a question's options, () for none.

    They are a list in one of the columns, or stand in columns A, B, ... of which those
    behind the last option say nothing.

    Raises:
      ValueError: if one is missing between others: letters would be others'.
    """
    for column in columns:
        if not is_missing(row.get(column)):
            return texts(row[column])
    return lettered([row.get(letter) for letter in string.ascii_uppercase])


def lettered(cells: Sequence[Any]) -> tuple[str, ...]:
    """Returns the options in these cells. Raises ValueError as `options`."""
    there = [not is_missing(cell) for cell in cells]
    count = sum(there)
    if not all(there[:count]):
        letter = string.ascii_uppercase[there.index(False)]
        raise ValueError(f"option {letter} is missing, and there are later ones.")
    return tuple(str(cell) for cell in cells[:count])


def letter(cell: Any, count: int) -> str:
    """Returns the letter of an answer: it is there, or a number from 0.

    Raises:
      ValueError: for none of `count` options.
    """
    said = str(cell).strip()
    letters = string.ascii_uppercase[:count]
    if said.isdecimal() and int(said) < count:
        return letters[int(said)]
    if len(said) == 1 and said in letters:
        return said
    raise ValueError(f"answer {shown(cell)} is none of {count} options.")


def pictures(row: Row, *columns: str) -> list[bytes]:
    """Returns the encoded pictures in these columns, in their order.

    Raises:
      ValueError: for a cell that holds none, such as the path of a file.
    """
    return [each for column in columns for each in _pictures(row.get(column), column)]


def _pictures(cell: Any, column: str) -> list[bytes]:
    if is_missing(cell):
        return []
    if isinstance(cell, bytes):
        return [cell]
    if isinstance(cell, Mapping):
        if isinstance(cell.get("bytes"), bytes):
            return [cell["bytes"]]
        raise ValueError(
            f"column {column} names a picture ({shown(cell.get('path'))}) and does not "
            "hold it: write the files with their pictures in them."
        )
    if isinstance(cell, Sequence) and not isinstance(cell, str):
        return [found for each in cell for found in _pictures(each, column)]
    raise ValueError(f"column {column} holds no picture: {shown(cell)}.")


def _list_of(cell: str) -> Any:
    """Returns the list that a text is of; the text itself if it is of none."""
    if cell[:1] == "[":
        try:
            found = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return cell
        return found if isinstance(found, list) else cell
    return cell
