"""A few held-out pages that all tests of the evaluation share."""

import pytest

from visor_jax.evals.pages.benchmark import PageBenchmark


@pytest.fixture(scope="session")
def benchmark() -> PageBenchmark:
    # Five pages in batches of three: the last batch has a row that only fills it up.
    return PageBenchmark.make(5, batch_size=3)
