import errno
import json

import jax.numpy as jnp
import pytest

from tests.limited_files import limited_files
from tests.training.metric_lines import metric_lines
from visor_jax.training.metrics import MetricWriter


def _train(writer, steps):
    for step in steps:
        writer.write(step, {"loss/sa2:8,16": jnp.float32(1 / step), "accuracy": 0.5})
        writer.write_timing(step, {"seconds_per_step": 0.1 * step})


def test_killed_and_resumed_run_ends_with_the_same_metrics(tmp_path):
    with MetricWriter(tmp_path / "straight") as writer:
        _train(writer, range(1, 7))
    with MetricWriter(tmp_path / "killed") as writer:
        _train(writer, range(1, 4))
        offset = writer.position()
        _train(writer, range(4, 6))
    killed = tmp_path / "killed" / "metrics.jsonl"
    with killed.open("a") as lines:
        lines.write('{"step": 6, "lo')
    assert [line["step"] for line in metric_lines(killed.parent)] == [1, 2, 3, 4, 5]
    with MetricWriter(tmp_path / "killed") as writer:
        writer.truncate_to(offset, step=3)
        _train(writer, range(4, 7))
    straight = (tmp_path / "straight" / "metrics.jsonl").read_bytes()
    assert killed.read_bytes() == straight
    assert len(metric_lines(tmp_path / "killed", "timing.jsonl")) == 8


def test_run_killed_before_its_first_checkpoint_starts_afresh(tmp_path):
    with MetricWriter(tmp_path) as writer:
        _train(writer, [1, 2])
    with MetricWriter(tmp_path) as writer:
        writer.truncate_to(0, step=0)
        assert writer.position() == 0
        _train(writer, [1])
    assert metric_lines(tmp_path) == [{"step": 1, "loss/sa2:8,16": 1, "accuracy": 0.5}]


def test_clock_values_stay_out_of_the_deterministic_file(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"loss": 2.0})
        writer.write_timing(1, {"eta": 3.0})
    assert metric_lines(tmp_path) == [{"step": 1, "loss": 2.0}]
    assert metric_lines(tmp_path, "timing.jsonl") == [{"step": 1, "eta": 3.0}]


def test_tensorboard_is_told_to_forget_the_steps_after_the_checkpoint(tmp_path):
    with MetricWriter(tmp_path) as writer:
        _train(writer, [1, 2])
        writer.truncate_to(writer.position(), step=1)
        _train(writer, [2])
    first, second = sorted((tmp_path / "tensorboard").iterdir(), key=str)
    assert b"loss/sa2_8_16" in first.read_bytes()
    assert b"timing/seconds_per_step" in second.read_bytes()


def test_every_line_is_strict_json(tmp_path):
    def refuse(constant):
        raise AssertionError(constant)

    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"loss": float("nan"), "norm": float("inf")})
    line = (tmp_path / "metrics.jsonl").read_text()
    values = json.loads(line, parse_constant=refuse)
    assert values == {"step": 1, "loss": "nan", "norm": "inf"}


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard/events.out"])
def test_a_full_disk_is_an_error_with_the_file(tmp_path, name):
    # The one file is there and large, or the other grows faster.
    if name == "metrics.jsonl":
        (tmp_path / name).write_text("{}\n" * 1000)
    values = {f"loss/sa{i}": 0.5 for i in range(20)}

    def write_all():
        with MetricWriter(tmp_path) as writer:
            for step in range(200):
                writer.write(step, values)
                if name != "metrics.jsonl":
                    (tmp_path / "metrics.jsonl").unlink()

    with limited_files(3000), pytest.raises(OSError, match="File too large") as error:
        write_all()
    assert error.value.errno == errno.EFBIG
    assert error.value.filename.startswith(str(tmp_path / name))


def test_missing_metrics_are_not_papered_over(tmp_path):
    with MetricWriter(tmp_path) as writer:
        _train(writer, [1])
        with pytest.raises(ValueError, match="at step 9 it had 10000"):
            writer.truncate_to(10000, step=9)


def test_other_processes_write_nothing(tmp_path):
    with MetricWriter(tmp_path / "run", enabled=False) as writer:
        _train(writer, [1])
        writer.truncate_to(100, step=1)
        assert writer.position() == 0
    assert not (tmp_path / "run").exists()
