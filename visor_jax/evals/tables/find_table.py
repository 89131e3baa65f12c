"""Where a benchmark's rows lie below a folder; nothing is ever fetched.

    FOLDER/DocVQA_VAL.tsv                         a table of VLMEvalKit, by its name
    FOLDER/docvqa/, FOLDER/DocVQA/, FOLDER/<owner>/DocVQA/    a folder of the benchmark:
        data/validation-00000-of-00003.parquet      files of the hub
        DocVQA/validation-00000-of-00003.parquet    ... of one of several configurations
        any.parquet, any.tsv                        one file, a table
    FOLDER itself, if it is such a folder

Which of the two it is the columns say.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from visor_jax.evals.tables.cells import Row
from visor_jax.evals.tables.definition import Definition, Source
from visor_jax.evals.tables.parquet_table import SHARD, ParquetTable
from visor_jax.evals.tables.tsv_table import TsvTable


class Table(Protocol):
    """Rows that are read again and again, in the same order."""

    files: tuple[Path, ...]
    columns: tuple[str, ...]

    def __len__(self) -> int: ...

    def rows(self, columns: Sequence[str]) -> Iterator[Row]: ...


def find_table(definition: Definition, folder: Path) -> Table:
    """Returns the benchmark's rows.

    Raises:
      ValueError: if there are none, not all, or several; the text says where to get
        them and where to put them.
    """
    if not folder.is_dir():
        raise ValueError(f"--data={folder} is no folder. {_remedy(definition, folder)}")
    table = folder / f"{definition.tsv}.tsv"
    found: list[list[Path]] = [[table]] if definition.tsv and table.is_file() else []
    for place in _places(definition, folder):
        found += _shards(definition.source, place)
        if place != folder:
            found += [[file] for file in sorted(place.glob("*.tsv"))]
    tables = [_table(files) for files in found]
    fitting = [table for table in tables if _fits(definition, table)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        named = " and ".join(str(table.files[0]) for table in fitting)
        raise ValueError(
            f"{definition.name}: both {named} are its rows: leave one in {folder}."
        )
    if tables:
        table = tables[0]
        raise ValueError(
            f"{definition.name}: {table.files[0]} has columns {list(table.columns)}, "
            f"and it would need {list(_required(definition, table))}. "
            f"{_remedy(definition, folder)}"
        )
    raise ValueError(
        f"{definition.name}: there is nothing of it in {folder}. "
        f"{_remedy(definition, folder)}"
    )


def find_pictures(definition: Definition, folder: Path) -> ParquetTable:
    """Returns the rows with the pictures, where these lie in a table of their own.

    Raises:
      ValueError: as `find_table`.
    """
    source = definition.picture_source
    found = [f for place in _places(definition, folder) for f in _shards(source, place)]
    if len(found) != 1:
        raise ValueError(
            f"{definition.name}: {len(found)} configurations {source.config!r} (its "
            f"pictures) are in {folder}, and there must be one. "
            f"{_remedy(definition, folder)}"
        )
    return ParquetTable(found[0])


def _places(definition: Definition, folder: Path) -> list[Path]:
    """Returns the folders that may be the benchmark's, the more special ones first."""
    ids = definition.source.ids
    names = [definition.name, *ids, *(each.partition("/")[2] for each in ids)]
    paths = [folder / name for name in dict.fromkeys(names)]
    return [path for path in paths if path.is_dir()] or [folder]


def _shards(source: Source, place: Path) -> list[list[Path]]:
    """Returns the split's files, by the folder that they lie in."""
    folders = [place / source.config] if source.config else []
    folders += [place / "data", place]
    for folder in folders:
        files = [
            file
            for file in sorted(folder.glob("*.parquet"))
            if (found := SHARD.fullmatch(file.name)) and found["split"] == source.split
        ]
        # A data set of one file may have given it any name.
        others = [f for f in folder.glob("*.parquet") if not SHARD.fullmatch(f.name)]
        if files or len(others) == 1:
            return [files or others]
    return []


def _table(files: Sequence[Path]) -> Table:
    return TsvTable(files[0]) if files[0].suffix == ".tsv" else ParquetTable(files)


def _required(definition: Definition, table: Table) -> tuple[str, ...]:
    is_tsv = isinstance(table, TsvTable)
    return definition.tsv_columns if is_tsv else definition.columns


def _fits(definition: Definition, table: Table) -> bool:
    required = _required(definition, table)
    return bool(required) and set(required) <= set(table.columns)


def _remedy(definition: Definition, folder: Path) -> str:
    if definition.made_by:
        command = definition.made_by.replace("FOLDER", str(folder))
        return f"Nothing is fetched from the net: make it by {command}."
    source = definition.source
    config = f", configuration {source.config}" if source.config else ""
    table = f", or VLMEvalKit's {definition.tsv}.tsv" if definition.tsv_columns else ""
    return (
        f"Nothing is fetched from the net: put data set {source.ids[0]} (split "
        f"{source.split}{config}) into {folder / source.ids[0].partition('/')[2]} with "
        f"its folders as they are{table} into {folder}."
    )
