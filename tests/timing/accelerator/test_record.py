"""What follows from the rows: shares of the peak, savings, the two files."""

import json

import pytest

from visor_jax.timing.accelerator.record import PartRecord, Record

CARD = PartRecord(
    "card",
    "done",
    rows=[
        {"what": "device", "card": "H100", "versions": {"jax": "0.11"}},
        {"what": "matmul", "ms": 1.0, "tflops": 500.0},
        {"what": "copy", "ms": 1.0, "bandwidth": 2e12},
    ],
)


def prefill(**changes):
    row = {"what": "decoder", "shape": "0.5B", "rows": 8, "budget": "dense"}
    return row | {"ms": 100.0, "spread": 1.0, "flops": 20e12} | changes


def completed(*rows):
    record = Record([CARD, PartRecord("prefill", "done", rows=list(rows))])
    return record.as_json()["parts"][1]["rows"]


def test_savings_are_against_the_dense_plan_of_the_same_shape():
    found = completed(
        prefill(shape="7B", ms=1e6),
        prefill(what="tower + decoder", ms=1e6),
        prefill(budget="sa0", ms=25.0, flops=4e12),
        prefill(rows=1, budget="sa0"),
        prefill(),
    )
    # 75 of 100 ms are saved, for 16 of 20 TFLOP.
    assert found[2]["saved"] == pytest.approx([0.75, 0.8])
    assert found[2]["ratio"] == pytest.approx(0.75 / 0.8)
    assert all("ratio" not in row for i, row in enumerate(found) if i != 2)


def test_shares_of_the_peak_and_of_the_bandwidth():
    (row,) = completed(prefill(bytes=1e11))
    assert row["tflops"] == pytest.approx(200.0)
    assert row["of_peak"] == pytest.approx(0.4)
    # 0.1 TB in 0.1 s, of 2 TB/s.
    assert row["of_bandwidth"] == pytest.approx(0.5)


def test_rows_that_failed_stay_as_they_are():
    failed = {"what": "decoder", "shape": "0.5B", "rows": 8, "failed": "no memory"}
    dense, other = completed(failed | {"budget": "dense"}, prefill(budget="sa0"))
    assert dense["failed"] == "no memory"
    assert "ratio" not in other
    assert completed(prefill(), failed | {"budget": "sa0"})[1]["failed"] == "no memory"


def test_files_say_what_is_known_so_far(tmp_path):
    running = PartRecord("attention", rows=[{"what": "forward", "ms": 2.0}])
    Record([CARD, running]).write(tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert (found["card"], found["peak_tflops"], found["bandwidth"]) == (
        *("H100", 500.0),
        2e12,
    )
    assert found["parts"][1]["status"] is None
    table = (tmp_path / "results.md").read_text()
    assert "# H100" in table
    assert "## attention (running" in table
    assert "| forward | 2 |" in table
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.json", "results.md"]


def test_without_a_card_nothing_is_a_share_of_it(tmp_path):
    record = Record([PartRecord("prefill", "failed", "no device", rows=[prefill()])])
    record.write(tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["card"] is None
    assert "of_peak" not in found["parts"][0]["rows"][0]
