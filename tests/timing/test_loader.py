"""`python -m visor_jax.timing.loader`: what it times, on a clock that the test sets."""

import types

import pytest

from tests.data.conversations import conversation_set
from visor_jax.timing import loader
from visor_jax.timing.loader import time_reading


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    converted = conversation_set.draw(folder, 10, sizes=((20, 40),))
    return conversation_set.opened(converted, folder, steps=12)


def samples_of(batch) -> int:
    """Returns how many samples a batch holds: a segment each, or a row of its own."""
    return sum(max(1, segments.max()) for segments in batch.text_segments)


def test_times_and_samples_are_those_of_the_batches_behind_the_first(data, monkeypatch):
    now, samples = [100.0], []

    def batches(reading):
        for number, batch in enumerate(data.batches(reading), 1):
            # The first takes a second, the second two, and so on.
            now[0] += number
            samples.append(samples_of(batch))
            yield batch

    clock = types.SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(loader, "time", clock)
    watched = types.SimpleNamespace(
        settings=data.settings, plan=data.plan, batches=batches
    )
    found = time_reading(watched, 0, 6)
    # Five batches are read ahead before the clock starts.
    assert len(samples) == 11
    assert found.first_s == 1
    assert found.batch_s == pytest.approx((6 + 7 + 8 + 9 + 10 + 11) / 6)
    assert found.samples_per_s == pytest.approx(sum(samples[5:]) / 51)
    # Rows hold more than one sample, so that rows would be another number.
    assert sum(samples[5:]) > 6 * 4


def test_a_run_that_is_too_short_to_time(data):
    with pytest.raises(ValueError, match="takes a run of 13, and this one has 12"):
        time_reading(data, 0, 8)
