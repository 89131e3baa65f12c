"""Engines that tests of a module share are let go of after it, with their programs."""

import gc

import pytest

from tests.inference.engine import tiny_engine


@pytest.fixture(autouse=True, scope="module")
def _engines_are_let_go(request):
    yield
    for value in vars(request.module).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()
    tiny_engine.forget_programs()
    gc.collect()
