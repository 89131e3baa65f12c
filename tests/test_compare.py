"""`python -m visor_jax.compare`: files of predictions side by side."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import own_flags
from tests.evals.benchmarks import made_up
from visor_jax import compare
from visor_jax.evals.answered import lines
from visor_jax.evals.benchmarks.registry import BENCHMARKS
from visor_jax.evals.tables.limit import identity_of
from visor_jax.evals.tables.table_benchmark import TableBenchmark

_ROOT = Path(__file__).parents[1]


def _written(folder, name, wrong, benchmark="gqa"):
    """Returns a file in which these questions, by number, are answered wrongly."""
    definition = BENCHMARKS[benchmark]
    made_up.write_table(benchmark, folder / f"{definition.tsv}.tsv")
    asked = TableBenchmark.open(definition, folder).questions.values()
    found = []
    for number, (question, row) in enumerate(
        zip(asked, made_up.rows(benchmark), strict=True)
    ):
        said = "wrong" if number in wrong else row.right
        answered = lines.scored(definition, question, said)
        fields = {"answer": said, "score": answered.score, "error": None}
        line = {"benchmark": benchmark, **dataclasses.asdict(question), **fields}
        found.append(line)
    file = folder / f"{name}.jsonl"
    lines.write_lines(file, found)
    return str(file)


def test_differences_flips_and_corrected_tests(tmp_path, capsys):
    full = _written(tmp_path, "full", [0])
    worse = _written(tmp_path, "worse", range(10))
    same = _written(tmp_path, "same", [1])
    settings = lines.settings_of(Path(worse))
    settings.write_text(json.dumps(identity_of(19, 20, 50)))
    report = tmp_path / "report.json"
    own_flags.call(compare, full, worse, same, f"--json={report}", "--flipped=2")
    printed = capsys.readouterr().out
    assert "95.0 [" in printed
    assert "-45.0" in printed
    limited = "gqa: 20 of 50 questions: --limit=19 took whole groups, spread evenly"
    assert f"{worse}: {limited}" in printed
    assert "right in the first alone 9, here alone 0: McNemar p = 0.003906" in printed
    assert "after Holm 0.007812" in printed
    assert "101 [boy1]: 'Boy1.' (1) -> 'wrong' (0)" in printed
    assert "9 questions changed their score" in printed
    found = json.loads(report.read_text())
    assert [each["limited"] for each in found["files"]] == [None, limited, None]
    assert [each["won"] for each in found["comparisons"]] == [0, 1]
    assert [each["lost"] for each in found["comparisons"]] == [9, 1]
    assert len(found["comparisons"][0]["flipped"]) == 9
    (figure,) = found["files"][0]["figures"]
    assert figure["value"] == pytest.approx(0.95)
    (difference,) = found["comparisons"][0]["differences"]
    assert difference["low"] < difference["value"] < difference["high"] < 0


def test_mistakes_end_in_one_line(tmp_path, capsys):
    full = _written(tmp_path, "full", [])
    other = _written(tmp_path, "other", [], "chartqa")
    (tmp_path / "none.jsonl").write_text('{"id": 1}\n')
    for paths, why in (
        ([full], "two files of predictions"),
        ([full, other], "several benchmarks: chartqa, gqa"),
        ([full, str(tmp_path / "none.jsonl")], "line 1 is no line of predictions"),
        ([full, str(tmp_path / "gone.jsonl")], "No such file"),
    ):
        with pytest.raises(SystemExit) as stopped:
            own_flags.call(compare, *paths)
        assert stopped.value.code == 2
        assert why in capsys.readouterr().err


def test_files_are_given_as_they_are(tmp_path):
    files = [_written(tmp_path, name, []) for name in ("one", "two")]
    done = subprocess.run(
        [sys.executable, "-m", "visor_jax.compare", *files],
        cwd=_ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 questions changed their score" in done.stdout
