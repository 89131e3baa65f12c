"""What the accelerators hold: the memory of one device, as their makers state it."""

import dataclasses

# Left to what no plan counts: the runtime, compiled programs, gaps between buffers.
SPARE = 0.08


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One kind of device. memory: bytes (makers' GB are taken as 1e9)."""

    name: str
    memory: int

    def left(self, needed: int) -> int:
        """Returns the bytes that are left beside what is needed; may be negative."""
        return self.memory - needed

    def verdict(self, needed: int) -> str:
        """Returns "fits", "tight" (less than `SPARE` is left) or "does not fit"."""
        if self.left(needed) < 0:
            return "does not fit"
        return "tight" if self.left(needed) < SPARE * self.memory else "fits"


_GB = 10**9
ACCELERATORS: dict[str, Accelerator] = {
    name: Accelerator(name=name, memory=gigabytes * _GB)
    for name, gigabytes in (
        ("v5e", 16),
        ("v6e", 32),
        ("H100", 80),
        ("v5p", 95),
        ("H200", 141),
    )
}


def accelerator(name: str) -> Accelerator:
    """Returns the named device, whatever its case. Raises ValueError with the names."""
    for known, found in ACCELERATORS.items():
        if known.lower() == name.lower():
            return found
    raise ValueError(f"Unknown device {name!r}: choose one of {list(ACCELERATORS)}.")


def chosen(name: str | None) -> list[Accelerator]:
    """Returns the named device alone, or all of them. Raises as `accelerator`."""
    return list(ACCELERATORS.values()) if name is None else [accelerator(name)]
