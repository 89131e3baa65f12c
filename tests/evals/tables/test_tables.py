"""Files of benchmarks: what is read, what is refused, and what the refusal says."""

import base64
import shutil
import tracemalloc

import numpy as np
import pytest

from tests.evals.benchmarks import made_up
from visor_jax.evals.benchmarks.registry import BENCHMARKS
from visor_jax.evals.tables import cells
from visor_jax.evals.tables.find_table import find_table
from visor_jax.evals.tables.parquet_table import ParquetTable
from visor_jax.evals.tables.table_benchmark import TableBenchmark
from visor_jax.evals.tables.tsv_table import TsvTable
from visor_jax.runtime.user_error import UserError

DOCVQA, GQA = BENCHMARKS["docvqa"], BENCHMARKS["gqa"]
PICTURE = base64.b64encode(made_up.picture(3)).decode()


def _tsv(file, *lines, start=""):
    file.write_text(start + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return TsvTable(file)


def test_tsv_rows_with_quotes_breaks_and_pictures_of_other_rows(tmp_path):
    table = _tsv(
        tmp_path / "a.tsv",
        "index\tquestion\timage",
        # The row that has the picture comes later, and refers to no one.
        "7\tone\t9",
        '8\t"two ""and""\ta\nbreak"\t7',
        f"9\tthrée\t{PICTURE}",
        "",
        start="\ufeff",
    )
    assert (len(table), table.columns) == (3, ("index", "question", "image"))
    for _ in range(2):
        rows = list(table.rows(("question", "image", "none")))
        assert [row["question"] for row in rows] == [
            *("one", 'two "and"\ta\nbreak', "thrée")
        ]
        assert [row["image"] for row in rows] == 3 * [[made_up.picture(3)]]
    assert list(table.rows(("index",))) == [{"index": i} for i in "789"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["question\timage", "a\tb"], "no column 'index'"),
        (["index\timage", f"1\t{PICTURE}", "1\t1"], "index '1' more than once"),
        (["index\timage", "1\t2", "2\t1"], "neither a picture nor the index"),
        (["index\timage", "1\t5"], "'5' is neither"),
        (["index\timage", "1\t" + 70 * "§"], "no base64"),
        (["index\timage", "1"], "1 cells and not 2"),
    ],
)
def test_tables_that_are_none(tmp_path, lines, said):
    with pytest.raises(ValueError, match=said):
        list(_tsv(tmp_path / "a.tsv", *lines).rows(("image",)))


def test_a_long_table_takes_little_memory(tmp_path):
    """...whatever its pictures take, which are referred to from afar."""
    large = base64.b64encode(bytes(300_000)).decode()
    peaks = []
    for rows in (4, 40):
        lines = [f"{n}\t{large}" for n in range(rows)]
        lines += [f"{rows}\t0", f"{rows + 1}\t1"]
        table = _tsv(tmp_path / f"{rows}.tsv", "index\timage", *lines)
        tracemalloc.start()
        total = sum(len(row["image"][0]) for row in table.rows(("image",)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert total == (rows + 2) * 300_000
    assert peaks[1] < 1.1 * peaks[0]


def test_parquet_rows_by_column_and_shard(tmp_path):
    pytest.importorskip("pyarrow")
    made_up.write_hub("docvqa", DOCVQA.source, tmp_path)
    files = sorted(tmp_path.rglob("*.parquet"))
    table = ParquetTable(files)
    assert len(table) == made_up.COUNT
    found = [row["questionId"] for row in table.rows(("questionId", "none"))]
    assert found == [str(n) for n in range(made_up.COUNT)]
    with pytest.raises(ValueError, match=r"1 of 2 shards; missing are \[0\]"):
        ParquetTable(files[1:])
    files[0].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        ParquetTable(files)
    files[0].write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no parquet file"):
        ParquetTable(files)


def test_a_missing_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install -e '.\[data\]'"):
        ParquetTable([tmp_path / "test-00000-of-00001.parquet"])


def test_where_rows_are_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"encoder/DocVQA.*validation.*DocVQA"):
        find_table(DOCVQA, tmp_path)
    with pytest.raises(ValueError, match=r"is no folder.*DocVQA_VAL.tsv"):
        find_table(DOCVQA, tmp_path / "none")
    made_up.write_table("chartqa", tmp_path / "DocVQA_VAL.tsv")
    assert find_table(DOCVQA, tmp_path).columns[0] == "index"
    pytest.importorskip("pyarrow")
    made_up.write_hub("docvqa", DOCVQA.source, tmp_path)
    with pytest.raises(ValueError, match="leave one"):
        find_table(DOCVQA, tmp_path)
    (tmp_path / "DocVQA_VAL.tsv").unlink()
    assert isinstance(find_table(DOCVQA, tmp_path), ParquetTable)
    # The folder may be the data set itself; the other configuration is not there.
    assert len(find_table(DOCVQA, tmp_path / "DocVQA")) == made_up.COUNT
    with pytest.raises(ValueError, match="InfographicVQA"):
        find_table(BENCHMARKS["infovqa"], tmp_path)


def test_names_of_files_of_other_times(tmp_path):
    pytest.importorskip("pyarrow")
    made_up.write_hub("mmstar", BENCHMARKS["mmstar"].source, tmp_path)
    files = sorted(tmp_path.rglob("*.parquet"))
    named = [f.rename(f.with_name(f"{f.stem}-725687bf7a18d64b.parquet")) for f in files]
    assert len(find_table(BENCHMARKS["mmstar"], tmp_path)) == made_up.COUNT
    named[1].unlink()
    named[0].rename(tmp_path / "MMStar" / "mmstar.parquet")
    assert len(find_table(BENCHMARKS["mmstar"], tmp_path)) == made_up.COUNT // 2
    # Of another split it is none, whatever its columns.
    (tmp_path / "MMStar" / "mmstar.parquet").rename(
        tmp_path / "MMStar" / "train-00000-of-00001.parquet"
    )
    with pytest.raises(ValueError, match="nothing of it"):
        find_table(BENCHMARKS["mmstar"], tmp_path)


def test_other_columns_are_named(tmp_path):
    pytest.importorskip("pyarrow")
    made_up.write_hub("textvqa", DOCVQA.source, tmp_path)
    with pytest.raises(ValueError, match=r"'question_id'.*would need.*'questionId'"):
        find_table(DOCVQA, tmp_path)


def test_pictures_of_a_table_of_their_own(tmp_path):
    pytest.importorskip("pyarrow")
    made_up.write_hub("gqa", GQA.source, tmp_path, GQA.picture_source)
    shutil.rmtree(tmp_path / "GQA" / GQA.picture_source.config)
    with pytest.raises(ValueError, match="testdev_balanced_images"):
        TableBenchmark.open(GQA, tmp_path)


def test_files_that_change_meanwhile(tmp_path):
    lines = ["index\tquestion\tanswer\timage", f"1\twho\tme\t{PICTURE}"]
    _tsv(tmp_path / "DocVQA_VAL.tsv", *lines)
    benchmark = TableBenchmark.open(DOCVQA, tmp_path)
    assert [each.id for each in benchmark.examples()] == ["1"]
    assert not list(benchmark.examples(without=["1"]))
    other = base64.b64encode(made_up.picture(4)).decode()
    _tsv(tmp_path / "DocVQA_VAL.tsv", lines[0], lines[1].replace(PICTURE, other))
    with pytest.raises(UserError, match=r"question '1' is gone.*changed meanwhile"):
        list(benchmark.examples())


def test_two_questions_of_one_id_and_a_row_of_something_else(tmp_path):
    lines = ["index\tquestion\tanswer\timage", f"1\twho\tme\t{PICTURE}", "2\t\tme\t1"]
    _tsv(tmp_path / "DocVQA_VAL.tsv", *lines)
    with pytest.raises(ValueError, match="docvqa, row 1: there is nothing in question"):
        TableBenchmark.open(DOCVQA, tmp_path)


def test_cells():
    assert cells.texts("['a', \"b's\"]") == ("a", "b's")
    assert cells.texts("[a]") == ("[a]",)
    assert cells.texts("") == ()
    assert cells.texts([{"answer": "a", "answer_id": 1}]) == ("a",)
    assert cells.options({"A": "x", "B": "nan", "C": float("nan")}) == ("x",)
    with pytest.raises(ValueError, match="option B is missing"):
        cells.options({"A": "x", "B": None, "C": "z"})
    assert [cells.letter(said, 4) for said in (2, "1", "D")] == ["C", "B", "D"]
    with pytest.raises(ValueError, match="'E' is none of 4 options"):
        cells.letter("E", 4)
    with pytest.raises(ValueError, match="does not hold it"):
        cells.pictures({"image": {"bytes": None, "path": "a.png"}}, "image")


def test_pictures_of_rows_that_are_done_do_not_stay_in_memory(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    picture, files = 100_000, []
    for shard in range(10):
        noise = np.random.default_rng(shard).bytes(20 * picture)
        pictures = [noise[i : i + picture] for i in range(0, len(noise), picture)]
        files.append(tmp_path / f"test-{shard:05d}-of-00010.parquet")
        table = arrow.table({"image": pictures})
        parquet.write_table(table, files[-1], row_group_size=10)
        del table
    before, most, count = arrow.total_allocated_bytes(), 0, 0
    for row in ParquetTable(files).rows(["image"]):
        assert len(row["image"]) == picture
        most = max(most, arrow.total_allocated_bytes() - before)
        count += 1
    assert count == 200
    # A few copies of one file, as long as it is read; never all files.
    assert most < 4 * 20 * picture
