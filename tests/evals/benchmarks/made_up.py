"""Twenty made-up questions of every known benchmark, and the files that hold them."""

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.evals.benchmarks import made_up_options, made_up_rows
from tests.evals.benchmarks.made_up_rows import (
    Row,
    image_cell,
    picture,
    picture_of,
)

__all__ = ["COUNT", "picture", "picture_of", "rows", "write_hub", "write_table"]

COUNT = 20
_MAKERS = made_up_rows.MAKERS | made_up_options.MAKERS


def rows(name: str) -> list[Row]:
    """Returns the twenty questions of a benchmark."""
    return [_MAKERS[name](number) for number in range(COUNT)]


def write_hub(name: str, source: Any, folder: Path, pictures: Any = None) -> None:
    """Writes the rows as the hub's files, of two shards; pictures where they belong.

    source, pictures: those of the definition.
    """
    found = [row.hub for row in rows(name)]
    if pictures is not None:
        kept = [{"id": f"n{k}", "image": image_cell(k)} for k in reversed(range(10))]
        _write_shards(kept, folder, pictures)
    elif not {"image", "decoded_image", "image_1"} & set(found[0]):
        found = [{**row, "image": image_cell(n)} for n, row in enumerate(found)]
    _write_shards(found, folder, source)


def _write_shards(found: list[dict[str, Any]], folder: Path, source: Any) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs: pip install -e .[data]")
    parquet = pytest.importorskip("pyarrow.parquet")
    place = folder / source.ids[0].partition("/")[2] / (source.config or "data")
    place.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(found)
    half = len(found) // 2
    for shard, part in enumerate((table.slice(0, half), table.slice(half))):
        file = place / f"{source.split}-{shard:05}-of-00002.parquet"
        parquet.write_table(part, file, row_group_size=3)


def write_table(name: str, file: Path) -> None:
    """Writes the rows as VLMEvalKit's table; the second of a picture refers to it."""
    found = []
    for number, row in enumerate(rows(name)):
        cells = {"index": str(100 + number), **row.table}
        first = picture_of(number)
        encoded = base64.b64encode(picture(first)).decode()
        cells["image"] = encoded if number == first else found[first]["index"]
        found.append(cells)
    names = list(dict.fromkeys(key for cells in found for key in cells))
    lines = ["\t".join(names)]
    for cells in found:
        quoted = (cells.get(each, "").replace('"', '""') for each in names)
        lines.append("\t".join(f'"{each}"' for each in quoted))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
