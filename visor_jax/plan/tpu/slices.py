"""TPU slices that the compiler knows, and the chips of them."""

import dataclasses
import importlib
import math
from typing import Any

from visor_jax.plan.accelerators import ACCELERATORS, Accelerator

# Chips along each side, as a slice is ordered. Others end the compiler's process: they
# are refused before it is asked.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_DEEP = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4"),
    *("4x4x8", "4x8x8", "8x8x8", "8x8x16"),
)
SLICES: dict[str, tuple[str, ...]] = {"v5e": _FLAT, "v6e": _FLAT, "v5p": _DEEP}
# Products in bfloat16, per second and chip, as the maker states them.
PEAK_FLOPS = {"v5e": 197e12, "v6e": 918e12, "v5p": 459e12}
# Bytes of a chip's memory that are read in a second, likewise.
BANDWIDTH = {"v5e": 819e9, "v6e": 1640e9, "v5p": 2765e9}
_CHIPS_OF_A_HOST = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slices:
    """Some slices of one kind. topology: of each, as "v5e:4x4"."""

    topology: str
    count: int = 1

    def __post_init__(self) -> None:
        kind, _, sides = self.topology.partition(":")
        if sides not in SLICES.get(kind, ()):
            known = "; ".join(
                f"{name}: {', '.join(each)}" for name, each in SLICES.items()
            )
            raise ValueError(
                f"--topology={self.topology} is no slice that is known here. Give "
                f"KIND:SIDES of: {known}."
            )
        if self.count < 1:
            raise ValueError(f"--slices={self.count} must be at least 1.")

    @property
    def kind(self) -> str:
        return self.topology.partition(":")[0]

    @property
    def device(self) -> Accelerator:
        return ACCELERATORS[self.kind]

    @property
    def sides(self) -> tuple[int, ...]:
        return tuple(map(int, self.topology.partition(":")[2].split("x")))

    @property
    def chips(self) -> int:
        """Of all slices."""
        return self.count * math.prod(self.sides)

    @property
    def hosts(self) -> int:
        return self.count * math.ceil(math.prod(self.sides) / _CHIPS_OF_A_HOST)

    @property
    def peak_flops(self) -> float:
        """Of all chips, per second."""
        return self.chips * PEAK_FLOPS[self.kind]

    @property
    def bandwidth(self) -> float:
        """Of the memory of one chip, bytes per second."""
        return BANDWIDTH[self.kind]

    def check_mesh(self, sizes: tuple[int, int, int]) -> None:
        """Raises ValueError unless the mesh has as many devices as there are chips."""
        if math.prod(sizes) != self.chips:
            mesh, chips = ",".join(map(str, sizes)), self.chips
            raise ValueError(
                f"--mesh={mesh} has {math.prod(sizes)} devices, and {self} {chips} "
                f"chip{'s'[: chips > 1]}: give a mesh of as many, e.g. "
                f"--mesh=1,{self.chips},1, or another --topology."
            )

    def devices(self) -> list[Any]:
        """Returns the chips, which need not be here, in the compiler's order.

        The compiler is loaded into this process, for good.
        """
        from jax.experimental import topologies

        # It takes a slice for whole hosts, of four chips, unless it is told otherwise.
        alone = math.prod(self.sides) == 1
        bounds = {"chips_per_host_bounds": (1, 1, 1)} if alone else {}
        several = {"num_slices": self.count} if self.count > 1 else {}
        return topologies.get_topology_desc(
            platform="tpu", topology_name=self.topology, **bounds, **several
        ).devices

    def __str__(self) -> str:
        return self.topology if self.count == 1 else f"{self.count} x {self.topology}"


def check_compiler() -> None:
    """Raises ValueError if the compiler for TPUs is not installed."""
    if not hasattr(_libtpu(), "get_library_path"):
        raise ValueError(
            "The compiler for TPUs is not installed: pip install -e '.[tpu]'."
        )


def _libtpu() -> Any:
    try:
        return importlib.import_module("libtpu")
    except ModuleNotFoundError:
        return None
