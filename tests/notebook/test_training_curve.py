"""The curve shows the numbers that the run wrote."""

import json

import numpy as np

from visor_jax.notebook.training_curve import read_metrics, training_curve
from visor_jax.training.run_record import write_run_record

LINES = [
    {"step": 10, "loss": 2.0, "accuracy": 0.25, "accuracy/sa3:1,3,5": 0.25},
    {"step": 20, "loss": "nan", "accuracy": 0.5, "accuracy/sa0": 0.125},
    {"step": 30, "loss": 0.5, "accuracy": 0.75, "accuracy/sa3:1,3,5": 1.0},
]


def written(workdir, lines=LINES, unfinished=""):
    text = "".join(json.dumps(line) + "\n" for line in lines) + unfinished
    (workdir / "metrics.jsonl").write_text(text)
    write_run_record(workdir, {"loop": {"steps": 40}})
    return workdir


def test_every_line_of_the_curve_is_what_was_written(tmp_path):
    left, right = training_curve(written(tmp_path)).axes
    (loss,) = left.lines
    # Where the loss was no number there is nothing to draw.
    np.testing.assert_array_equal(loss.get_xydata(), [[10, 2.0], [30, 0.5]])
    drawn = {line.get_label(): line.get_xydata() for line in right.lines}
    np.testing.assert_array_equal(drawn["all budgets"], [[10, 25], [20, 50], [30, 75]])
    np.testing.assert_array_equal(drawn["sa0"], [[20, 12.5]])
    np.testing.assert_array_equal(drawn["sa3:1,3,5"], [[10, 25], [30, 100]])
    assert left.get_xlim() == right.get_xlim() == (0, 40)


def test_a_line_that_is_being_written_is_left_for_later(tmp_path):
    workdir = written(tmp_path, unfinished='{"step": 40, "lo')
    assert read_metrics(workdir) == LINES


def test_a_run_without_numbers_has_an_empty_curve(tmp_path):
    assert read_metrics(tmp_path) == []
    left, right = training_curve(tmp_path).axes
    assert [line.get_xydata().size for line in (*left.lines, *right.lines)] == [0, 0]
