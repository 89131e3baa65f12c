"""Reads the files of numbers that a run leaves behind."""

import json
from pathlib import Path


def metric_lines(workdir, name="metrics.jsonl"):
    """Returns the complete lines of a file, first line first."""
    lines = (Path(workdir) / name).read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
