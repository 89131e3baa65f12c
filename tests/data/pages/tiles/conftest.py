"""Small pools of tiled pages that all their tests share."""

import pytest

from visor_jax.data.pages.pool.pool import PagePool, make_pool
from visor_jax.data.pages.pool.recipes import TILED_PAGES


@pytest.fixture(scope="session")
def pools() -> dict[int, PagePool]:
    return {
        grid: make_pool("train", 30, seed=5, recipe=recipe)
        for grid, recipe in TILED_PAGES.items()
    }
