"""Twenty thousand rows with pictures of their own: what reading them takes of memory.

    python -m pytest -m slow -s tests/evals/tables/test_large_tables.py

Minutes, and three gigabytes of disk. Every form is read in a process of its own, whole
and once more with a picture at a time, as `evaluate` does; its peak is printed.
"""

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.evals.benchmarks import made_up
from visor_jax.evals.benchmarks.registry import BENCHMARKS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
ROWS, FEW, BYTES = 20_000, 200, 50_000
# What twenty thousand questions may take beyond two hundred, whatever their pictures.
MOST_MEGABYTES = 300
DOCVQA = BENCHMARKS["docvqa"]
READ = """
import resource, sys
from pathlib import Path
from visor_jax.evals.benchmarks.registry import BENCHMARKS
from visor_jax.evals.tables.table_benchmark import TableBenchmark
benchmark = TableBenchmark.open(BENCHMARKS["docvqa"], Path(sys.argv[1]))
size = sum(len(example.request.images[0]) for example in benchmark.examples())
print(len(benchmark), size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _pictures(count: int) -> Iterator[bytes]:
    """Yields pictures with noise behind their end, none like another."""
    rng, whole = np.random.default_rng(0), made_up.picture(0)
    for _ in range(count):
        yield whole + rng.bytes(BYTES - len(whole))


def _write_parquet(folder: Path, count: int) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    place = folder / "DocVQA" / DOCVQA.source.config
    place.mkdir(parents=True)
    file = place / f"{DOCVQA.source.split}-00000-of-00001.parquet"
    pictures, number, writer = _pictures(count), 0, None
    while number < count:
        rows = [
            {
                "questionId": str(number + n),
                "question": f"What is {number + n}?",
                "answers": [str(number + n)],
                "docId": number + n,
                "image": {"bytes": next(pictures), "path": None},
            }
            for n in range(100)
        ]
        number += len(rows)
        table = pyarrow.Table.from_pylist(rows)
        writer = writer or parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)
    writer.close()


def _write_tsv(folder: Path, count: int) -> None:
    with (folder / f"{DOCVQA.tsv}.tsv").open("w") as file:
        file.write("index\tquestion\tanswer\timage\n")
        for number, picture in enumerate(_pictures(count)):
            encoded = base64.b64encode(picture).decode()
            file.write(f"{number}\tWhat is {number}?\t['{number}']\t{encoded}\n")


def _peak_megabytes(folder: Path, count: int) -> float:
    command = [sys.executable, "-c", READ, str(folder)]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    rows, size, kilobytes = map(int, said.stdout.split())
    assert (rows, size) == (count, count * BYTES)
    return kilobytes / 1024


@pytest.mark.parametrize("write", [_write_parquet, _write_tsv])
def test_many_rows_take_little_more_memory_than_few(write, tmp_path):
    peaks = []
    for count in (FEW, ROWS):
        folder = tmp_path / str(count)
        folder.mkdir()
        write(folder, count)
        peaks.append(_peak_megabytes(folder, count))
        for file in folder.rglob("*.*"):
            file.unlink()
    few, many = peaks
    print(f"\n{write.__name__}: {few:.0f} MB for {FEW} rows, {many:.0f} for {ROWS}")
    assert many - few < MOST_MEGABYTES
