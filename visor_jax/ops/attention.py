"""Grouped-query dot-product attention with the mask of `visor_jax.ops.masks`.

One mathematics, several kernels (`visor_jax.ops.kernels`). The first of `KERNELS` that
does not refuse takes the work. Static facts alone decide (shapes, dtypes, the form of
the mask, the platform), so a program has one kernel or the other.
"""

from collections.abc import Sequence

import jax
from jaxtyping import Array, Float

from visor_jax.ops.kernels.blockwise import BlockwiseKernel
from visor_jax.ops.kernels.cudnn import CudnnKernel
from visor_jax.ops.kernels.kernel import Kernel, KeyPart
from visor_jax.ops.kernels.plain import PlainKernel
from visor_jax.ops.kernels.splash import SplashKernel
from visor_jax.ops.kernels.tags import TagsKernel
from visor_jax.ops.masks import TokenTags

# The name that leaves the choice to `chosen`.
AUTO = "auto"
# In order of preference.
KERNELS: dict[str, Kernel] = {
    "cudnn": CudnnKernel(),
    "tags": TagsKernel(),
    "plain": PlainKernel(),
    "blockwise": BlockwiseKernel(),
    # By name alone: `blockwise` never refuses.
    "splash": SplashKernel(),
}

# Of this process.
_used: set[str] = set()


def attend(
    query: Float[Array, "B Q N H"],
    parts: Sequence[KeyPart],
    query_tags: TokenTags | None = None,
    *,
    kernel: str = AUTO,
    platform: str | None = None,
) -> Float[Array, "B Q N H"]:
    """Returns softmax(q k^T / sqrt(H)) v over the keys of all parts together.

    Masked by the tags; without tags every query sees every key. Query head j uses
    key/value head j // (N // K). Scores and softmax are float32 whatever the inputs
    are. A query that is invalid or sees no key at all gets a meaningless finite value;
    the caller must not use it.

    Args:
      kernel: a name in `KERNELS`, or `AUTO`.
      platform: what the program is compiled for; None for `current_platform()`.

    Raises:
      ValueError: for an unknown kernel, and for a named one that refuses.
    """
    parts = [part for part in parts if part.key.shape[1] > 0]
    name = chosen(query, parts, kernel=kernel, platform=platform)
    _used.add(name)
    return KERNELS[name](query, parts, query_tags)


def chosen(
    query: Array | jax.ShapeDtypeStruct,
    parts: Sequence[KeyPart],
    *,
    kernel: str = AUTO,
    platform: str | None = None,
) -> str:
    """Returns the name of the kernel that `attend` uses; arguments, errors as there."""
    platform = current_platform() if platform is None else platform
    names = KERNELS if kernel == AUTO else [check_kernel(kernel)]
    reasons = {name: KERNELS[name].refuses(query, parts, platform) for name in names}
    for name, reason in reasons.items():
        if reason is None:
            return name
    refused = "; ".join(f"{name!r}: {reason}" for name, reason in reasons.items())
    raise ValueError(f"attention={kernel!r} cannot be used here ({refused}).")


def kernels_used() -> list[str]:
    """Returns the names of the kernels in whatever this process has traced, sorted."""
    return sorted(_used)


def check_kernel(name: str) -> str:
    """Returns the name. Raises ValueError with the known ones if nothing bears it."""
    if name != AUTO and name not in KERNELS:
        raise ValueError(f"attention={name!r} is not one of {[AUTO, *KERNELS]}.")
    return name


def current_platform() -> str:
    """Returns what programs are compiled for: "cpu", "gpu" or "tpu".

    The platform of the mesh in context, whose devices need not be here; without one,
    or with one of no devices, that of this process.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def writes_scores(queries: int, keys: int, *, kernel: str = AUTO) -> bool:
    """Returns whether attention of these lengths keeps all of its scores.

    For formulas of memory; with `AUTO`, of float32 values on the current platform.
    """
    if kernel != AUTO:
        return KERNELS[check_kernel(kernel)].writes_scores
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        mesh = jax.sharding.AbstractMesh((1,), ("data",))
    # A row and a head for every device, so that nothing depends on how they are split.
    query, key = (
        jax.ShapeDtypeStruct((mesh.size, length, mesh.size, 8), "float32")
        for length in (queries, keys)
    )
    with jax.sharding.use_abstract_mesh(mesh):
        return KERNELS[chosen(query, [KeyPart(key, key, None)])].writes_scores
