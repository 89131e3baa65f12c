"""Programs here run a few times on tiny arrays: compiling them is what takes time."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def cheap_compilation() -> Iterator[None]:
    """Leaves out the code generator's optimisations, which halves compile times."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
