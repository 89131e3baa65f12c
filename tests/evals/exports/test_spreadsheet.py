"""Spreadsheets, read by Python's own reader of XML and, where it is there, pandas."""

import io
import zipfile
from xml.etree import ElementTree

import pytest

from visor_jax.evals.exports.spreadsheet import LONGEST_TEXT, spreadsheet

ROWS = [
    ["index", "question", "prediction"],
    [7, 'What is <this> & "that"?', " two\nlines\t "],
    [-8, "Ünï 日本 🙂", ""],
    [9, "a\x0bb\rc", "=1+1"],
]
_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def read(content: bytes) -> list[list]:
    """Returns the cells of the one sheet."""
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        assert packed.testzip() is None
        for name in packed.namelist():
            ElementTree.fromstring(packed.read(name))
        sheet = ElementTree.fromstring(packed.read("xl/worksheets/sheet1.xml"))
    rows = []
    for row in sheet.iter(f"{_MAIN}row"):
        cells = []
        for cell in row.iter(f"{_MAIN}c"):
            texts = [each.text for each in cell.iter(f"{_MAIN}t")]
            numbers = [int(each.text) for each in cell.iter(f"{_MAIN}v")]
            cells += texts or numbers or [""]
        rows.append(cells)
    return rows


def test_cells_are_read_as_they_were_written():
    expected = [[*row] for row in ROWS]
    expected[3][1] = "a_x000B_b\rc"
    assert read(spreadsheet(ROWS)) == expected


def test_the_same_table_is_the_same_file():
    assert spreadsheet(ROWS) == spreadsheet(ROWS)
    assert spreadsheet(ROWS) != spreadsheet(ROWS[:2])


def test_pandas_reads_it_as_vlmevalkit_does():
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("openpyxl")
    found = pandas.read_excel(io.BytesIO(spreadsheet(ROWS)))
    assert list(found.columns) == ROWS[0]
    assert found["index"].tolist() == [7, -8, 9]
    assert found["question"][1] == ROWS[2][1]
    assert found["prediction"][0] == ROWS[1][2]
    assert pandas.isna(found["prediction"][1])
    assert found["prediction"][2] == "=1+1"


def test_a_text_that_no_cell_holds_is_refused():
    assert read(spreadsheet([["x" * LONGEST_TEXT]])) == [["x" * LONGEST_TEXT]]
    with pytest.raises(ValueError, match=r"32768 characters.*holds 32767: 'xxx"):
        spreadsheet([["x" * (LONGEST_TEXT + 1)]])
