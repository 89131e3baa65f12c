"""What was measured: parts with rows, as JSON and as a table.

    {"card", "versions", "peak_tflops", "bandwidth",
     "parts": [{"name", "status", "reason", "seconds", "rows": [{...}, ...]}]}

peak_tflops: of a large bfloat16 product. bandwidth: bytes a second that a copy reads
and writes. A row says what it is of (`what`, `shape`, `kernel`, `budget`, `rows`, where
they apply), then `ms`, `spread` (slowest less fastest, ms), `compile_s` and `flops`;
other numbers are named where they are made.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from visor_jax.runtime import atomic_write

RESULTS = "results.json"
TABLE = "results.md"
# How a part ends; "timeout": its time was up, whatever rows it had.
STATUSES = ("done", "skipped", "failed", "timeout")
CARD = "card"

Row = dict[str, Any]


@dataclasses.dataclass
class PartRecord:
    """One part as far as it got. status: None while it runs. reason: for a status."""

    name: str
    status: str | None = None
    reason: str | None = None
    seconds: float = 0.0
    rows: list[Row] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Record:
    """All parts so far, in the order in which they were run."""

    parts: list[PartRecord] = dataclasses.field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Writes both files as they stand now, each in one step."""
        content = json.dumps(self.as_json(), indent=1) + "\n"
        for name, text in ((RESULTS, content), (TABLE, self.table())):
            atomic_write.write_text(folder / name, text)

    def as_json(self) -> dict[str, Any]:
        """Returns what the module's docstring shows."""
        card = self._first_rows()
        return {
            "card": card.get("device", {}).get("card"),
            "versions": card.get("device", {}).get("versions", {}),
            "peak_tflops": card.get("matmul", {}).get("tflops"),
            "bandwidth": card.get("copy", {}).get("bandwidth"),
            "parts": [
                dataclasses.asdict(part) | {"rows": self._completed(part)}
                for part in self.parts
            ],
        }

    def _first_rows(self) -> dict[str, Row]:
        """Returns the rows of the card by what they are of."""
        rows = [r for part in self.parts if part.name == CARD for r in part.rows]
        return {row["what"]: row for row in rows}

    def _completed(self, part: PartRecord) -> list[Row]:
        """Returns the rows with what follows from others: shares of the peak, ratios.

        of_peak: of the card's product. of_bandwidth: of its copy. saved: (time saved,
        FLOPs saved) against the dense plan at the same shape; ratio: the first over
        the second.
        """
        card = self._first_rows()
        peak = card.get("matmul", {}).get("tflops")
        bandwidth = card.get("copy", {}).get("bandwidth")
        base = {_scope(row): row for row in part.rows if row.get("budget") == "dense"}
        rows = []
        for row in part.rows:
            row, dense = dict(row), base.get(_scope(row))
            if "flops" in row and "ms" in row:
                row["tflops"] = row["flops"] / row["ms"] / 1e9
                if peak:
                    row["of_peak"] = row["tflops"] / peak
            if "bytes" in row and bandwidth:
                row["of_bandwidth"] = 1e3 * row["bytes"] / row["ms"] / bandwidth
            both = dense is not None and {"ms", "flops"} <= row.keys() & dense.keys()
            if both and row["budget"] != "dense":
                saved = [1 - row[key] / dense[key] for key in ("ms", "flops")]
                row |= {"saved": saved, "ratio": saved[0] / saved[1]}
            rows.append(row)
        return rows

    def table(self) -> str:
        """Returns all rows as Markdown: a table for each part."""
        content = self.as_json()
        lines = [
            f"# {content['card'] or 'unknown card'}",
            "",
            f"peak {_shown(content['peak_tflops'])} TFLOP/s (bfloat16), "
            f"bandwidth {_shown(content['bandwidth'])} B/s; "
            + ", ".join(f"{k} {v}" for k, v in content["versions"].items()),
        ]
        for part in content["parts"]:
            status = part["status"] or "running"
            why = f": {part['reason']}" if part["reason"] else ""
            lines += ["", f"## {part['name']} ({status}, {part['seconds']:.0f} s{why})"]
            lines += _table([r for r in part["rows"] if "versions" not in r])
        return "\n".join(lines) + "\n"


def _scope(row: Row) -> tuple:
    return tuple(row.get(key) for key in ("what", "shape", "kernel", "rows"))


def _table(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    columns = list(dict.fromkeys(key for row in rows for key in row))
    body = [" | ".join(_shown(row.get(key)) for key in columns) for row in rows]
    head = [" | ".join(columns), " | ".join("---" for _ in columns)]
    return ["", *(f"| {line} |" for line in head + body)]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
