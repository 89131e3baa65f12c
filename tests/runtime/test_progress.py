import io

import pytest

from visor_jax.runtime.progress import Progress


class _Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def _work(progress, clock, steps, seconds=1.0):
    with progress:
        for step in steps:
            clock.now += seconds
            progress.update(step, loss=1.2341)


def test_log_files_get_a_plain_line_from_time_to_time():
    clock, stream = _Clock(), io.StringIO()
    progress = Progress(25, stream=stream, clock=clock, period=10)
    _work(progress, clock, range(1, 26))
    assert stream.getvalue().splitlines() == [
        "step 10/25  loss 1.234  1 steps/s  eta 0:15",
        "step 20/25  loss 1.234  1 steps/s  eta 0:05",
        "step 25/25  loss 1.234  1 steps/s  eta 0:00",
    ]


def test_rate_is_that_of_late_and_of_this_start_only():
    clock, stream = _Clock(), io.StringIO()
    progress = Progress(9999, start=500, stream=stream, clock=clock, period=1e9)
    with progress:
        clock.now += 600  # compiling
        progress.update(501)
        for step in range(502, 700):
            clock.now += 0.5
            progress.update(step)
        assert progress.rate == pytest.approx(2.0, rel=0.02)
    assert stream.getvalue() == ""


def test_other_stages_say_what_they_count():
    clock, stream = _Clock(), io.StringIO()
    progress = Progress(
        8000, description="drawing pages", unit="pages", stream=stream, clock=clock
    )
    _work(progress, clock, [100], seconds=20)
    assert stream.getvalue() == (
        "drawing pages 100/8000  loss 1.234  5 pages/s  eta 26:20\n"
    )


@pytest.mark.parametrize("columns", ["1", "7", "80"])
def test_terminal_of_any_width_gets_a_bar(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    clock, stream = _Clock(), _Terminal()
    progress = Progress(3, description="[step]", stream=stream, clock=clock)
    with progress:
        for step in range(1, 4):
            clock.now += 1
            progress.update(step, loss=float("nan"))
            progress.log("a [line] of its own")
    shown = stream.getvalue()
    assert "a" in shown
    if columns == "80":
        assert "[step]" in shown
        assert "3/3" in shown
        assert "a [line] of its own" in shown


def test_other_processes_print_nothing():
    clock, stream = _Clock(), _Terminal()
    progress = Progress(3, stream=stream, clock=clock, enabled=False)
    _work(progress, clock, range(1, 4))
    progress.log("hidden")
    assert stream.getvalue() == ""


def test_stages_may_be_nested_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = _Terminal()
    with Progress(2, stream=stream) as outer:
        outer.update(1)
        with Progress(2, description="evaluating", stream=stream) as inner:
            inner.update(2)
        outer.update(2)
    assert "evaluating" in stream.getvalue()
