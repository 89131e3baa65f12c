"""Part 0: the card, the versions, and what it can do at best."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array

from visor_jax.runtime.machine import git_commit, package_versions
from visor_jax.timing.accelerator.measure import (
    Deadline,
    Job,
    compile_all,
    program_times,
)
from visor_jax.timing.accelerator.record import Row

# In one run: a launch costs nothing beside them.
_PRODUCTS = 8


def rows(*, tiny: bool, deadline: Deadline) -> Iterator[Row]:
    """Yields the device, the product (8192 cubed) and the copy (2 GB)."""
    yield {
        "what": "device",
        "card": jax.devices()[0].device_kind,
        "versions": package_versions() | {"commit": git_commit()},
    }
    width, numbers = (64, 1 << 12) if tiny else (8192, 1 << 30)
    # Random numbers: zeros would be faster than any data.
    key = jax.random.key(0)
    left, right = jax.random.normal(key, (2, width, width), jnp.bfloat16)
    long = jnp.ones(numbers, jnp.bfloat16)
    jobs = {"matmul": Job(_products, (left, right)), "copy": Job(_copy, (long,))}
    programs = compile_all(jobs, deadline)
    times = program_times(
        programs["matmul"], left, right, deadline=deadline, each=_PRODUCTS
    )
    flops = 2 * width**3
    tflops = flops / times["ms"] / 1e9
    yield {"what": "matmul", "shape": f"{width} cubed", **times, "tflops": tflops}
    times = program_times(programs["copy"], long, deadline=deadline)
    moved = 2 * long.nbytes
    bandwidth = 1e3 * moved / times["ms"]
    yield {"what": "copy", "shape": f"{moved} bytes", **times, "bandwidth": bandwidth}


def _products(left: Array, right: Array) -> Array:
    right = right * left.shape[0] ** -0.5
    return jax.lax.fori_loop(0, _PRODUCTS, lambda _, x: x @ right, left)


def _copy(x: Array) -> Array:
    return -x
