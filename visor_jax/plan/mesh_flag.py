"""The mesh of a plan: of devices that need not be here, so that none is left open."""

import dataclasses

from visor_jax.sharding.mesh import MeshSettings


def read_mesh(text: str | None, configured: MeshSettings) -> tuple[int, int, int]:
    """Returns (data, fsdp, tensor) of "8,4,1", or of the configuration.

    Raises:
      ValueError: unless these are three numbers of at least 1.
    """
    if text is None:
        sizes = dataclasses.astuple(configured)
        if -1 in sizes:
            raise ValueError(
                f"The configuration's mesh {sizes} takes what devices there are, and a "
                "plan has none: add --mesh=DATA,FSDP,TENSOR, e.g. --mesh=8,4,1."
            )
        return sizes
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(
            f"--mesh={text}: three numbers of at least 1 are needed, DATA,FSDP,TENSOR."
        )
    data, fsdp, tensor = map(int, parts)
    return data, fsdp, tensor
