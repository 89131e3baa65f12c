"""`python -m visor_jax.timing.loader`: what it times."""

import pytest

from tests.data.conversations import conversation_set
from visor_jax.timing.loader import time_reading


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    converted = conversation_set.draw(folder, 10, sizes=((20, 40),))
    return conversation_set.opened(converted, folder, steps=12)


def test_samples_a_second_are_those_of_the_batches(data):
    found = time_reading(data, 0, 7)
    # Five batches are read ahead before the clock starts.
    samples = sum(len(row) for i in range(5, 12) for row in data.plan.rows(i))
    assert found.samples_per_s * found.batch_s * 7 == pytest.approx(samples)
    assert found.first_s > 0


def test_a_run_that_is_too_short_to_time(data):
    with pytest.raises(ValueError, match="takes a run of 13, and this one has 12"):
        time_reading(data, 0, 8)
