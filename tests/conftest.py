"""The test session: eight fake CPU devices, exact products, checked shapes.

Everything here happens before jax starts and before `visor_jax` is imported.
"""

import gc
import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import tempfile
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
# What one test, worker or started command has compiled the others need not. Workers
# and started sessions inherit the folder; only the process that made it removes it.
os.environ["VISOR_TESTS_PROGRAMS_OF"] = os.environ.get(
    "VISOR_TESTS_PROGRAMS_OF"
) or str(os.getpid())
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get(
    "JAX_COMPILATION_CACHE_DIR"
) or tempfile.mkdtemp(prefix="visor_jax_tests_")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
# Tests mostly compile: a third of the time, for steps that need no speed (XLA_FLAGS of
# one's own has programs made as for users). And a busy machine is no deadlock; but from
# jax 0.11 on simulated devices may wait for one another's threads for ever.
_JAX = tuple(map(int, importlib.metadata.version("jax").split(".")[:2]))
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS") or (
    "--xla_backend_optimization_level=0"
    " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
    " --xla_cpu_collective_call_terminate_timeout_seconds=200"
    + (" --xla_cpu_multi_thread_eigen=false" if _JAX >= (0, 11) else "")
)

import hypothesis
import jax
import jaxtyping
import pytest

import tests.annotation_checker  # noqa: F401  The hook looks it up by name.

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")

# Every annotated function and dataclass of the package checks its arguments and result.
jaxtyping.install_import_hook("visor_jax", "tests.annotation_checker.checked")

# Tracing makes so many small objects that looking for cycles among all that is loaded
# takes a tenth of the time of tests that trace much.
gc.freeze()
gc.set_threshold(50_000, 20, 50)

# Examples compile programs: how long one takes says nothing.
hypothesis.settings.register_profile("tests", deadline=None, max_examples=25)
hypothesis.settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "parity: compares with the PyTorch reference; needs torch"
    )
    config.addinivalue_line("markers", "slow: minutes; run by hand with -m slow")


def pytest_unconfigure(config: pytest.Config) -> None:
    programs = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    made_here = os.environ["VISOR_TESTS_PROGRAMS_OF"] == str(os.getpid())
    if made_here and programs.name.startswith("visor_jax_tests_"):
        shutil.rmtree(programs, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("torch") is not None:
        return
    skip = pytest.mark.skip(reason="needs torch: pip install -e .[parity]")
    for item in items:
        if item.get_closest_marker("parity"):
            item.add_marker(skip)


# Compiled programs keep memory maps, of which a process may have 65,530 (Linux). What
# the package compiles is bounded; what tests compile by themselves is not. Low enough
# for no test to get beyond 20,000.
_MANY_MAPS = 10_000


# The most that a test left, of this process and of those that it started tests in.
_MAPS_SEEN = [0]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Lets go of compiled programs after a test, where many have come together."""
    from visor_jax.runtime.memory_maps import let_programs_go, memory_maps

    _MAPS_SEEN.append(memory_maps())
    let_programs_go(_MANY_MAPS)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["memory_maps"] = max(_MAPS_SEEN)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    del error
    _MAPS_SEEN.append(getattr(node, "workeroutput", {}).get("memory_maps", 0))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"memory maps of a process: {max(_MAPS_SEEN)} at most")
