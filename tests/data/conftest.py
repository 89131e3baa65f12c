"""One small pool that all tests of the data share."""

import numpy as np
import pytest

from visor_jax.data.pages.pool.drawing import draw_facts
from visor_jax.data.pages.pool.pool import PagePool, make_pool


@pytest.fixture(scope="session")
def pool() -> PagePool:
    return make_pool("train", 40, seed=5)


@pytest.fixture(scope="session")
def many_facts() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([draw_facts(rng).to_record() for _ in range(4000)])
