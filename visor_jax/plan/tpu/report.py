"""What a compiled program needs and whether it fits: as text and as JSON."""

import dataclasses
from typing import Any

from visor_jax.plan.tpu.compiled_step import CompiledStep
from visor_jax.plan.tpu.slices import Slices

STEP, PREFILL, DECODE = "step", "prefill", "decode"
# Of the products that a chip could do: what a step of this kind may hope for.
_UTILISATION = 0.4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """A compiled program beside what was counted of it.

    formula: bytes of a chip at the fullest moment, as `plan` counts them.
    gated: layer bodies with a gate. flops: of all chips in one step, every layer on.
    program: a training step, a prefill, or a step of decoding. budget: of the last two.
    """

    slices: Slices
    mesh: tuple[int, int, int]
    effort: str
    compiled: CompiledStep
    formula: int
    gated: int
    flops: int
    program: str = STEP
    budget: str | None = None

    @property
    def verdict(self) -> str:
        """Returns "fits", "tight" or "does not fit"."""
        usable, needed = self.compiled.usable, self.compiled.needed
        if usable is not None and needed > usable:
            return "does not fit"
        return self.slices.device.verdict(needed)

    @property
    def fits(self) -> bool:
        return self.verdict != "does not fit"

    @property
    def formula_is_off(self) -> float:
        """Returns by how much of what is reserved the formula is above it."""
        return self.formula / self.compiled.reserved - 1

    @property
    def demanded_conditionals(self) -> int:
        """Returns the least that the gates need: forward and backward of each body."""
        return 2 * self.gated

    @property
    def step_seconds(self) -> float:
        """Returns the time of a step at 40 % of what the chips could do."""
        return self.flops / (_UTILISATION * self.slices.peak_flops)

    @property
    def read_seconds(self) -> float:
        """Returns the time in which a chip's memory gives the arguments once."""
        return self.compiled.arguments / self.slices.bandwidth

    def as_json(self) -> dict[str, Any]:
        """Returns all of it as JSON values; bytes are those of one chip."""
        return {
            "topology": self.slices.topology,
            "slices": self.slices.count,
            "chips": self.slices.chips,
            "hosts": self.slices.hosts,
            "hbm": self.slices.device.memory,
            "mesh": dict(zip(("data", "fsdp", "tensor"), self.mesh, strict=True)),
            "effort": self.effort,
            "program": self.program,
            "budget": self.budget,
            "verdict": self.verdict,
            "needed": self.compiled.needed,
            "reserved": self.compiled.reserved,
            "formula": self.formula,
            "formula_is_off": round(self.formula_is_off, 4),
            "demanded_conditionals": self.demanded_conditionals,
            "flops": self.flops,
            **self._seconds(),
            **dataclasses.asdict(self.compiled),
        }

    def _seconds(self) -> dict[str, float]:
        # What bounds a step of decoding is memory, not products.
        if self.program == DECODE:
            return {"read_s": round(self.read_seconds, 6)}
        return {"step_s_at_40_percent": round(self.step_seconds, 4)}

    def as_text(self) -> str:
        """Returns all of it, a line or more for each question."""
        found, device = self.compiled, self.slices.device
        lines = [
            f"{self.slices}: {self.slices.chips} chips of {device.memory / 1e9:.0f} GB "
            f"on {self.slices.hosts} hosts; effort {self.effort}",
            f"lowered in {found.lower_s:.1f} s, compiled in {found.compile_s:.1f} s",
            "",
            "GB on a chip",
            *self._memory(),
            f"  all of it                   {_gb(found.needed)}   {self.verdict}"
            f" ({_gb(device.memory - found.needed).strip()} left)",
            f"  by formula, program aside   {_gb(self.formula)}   "
            f"{self.formula_is_off:+.1%}",
        ]
        if found.arguments:
            lines += ["", *self._program()]
        return "\n".join(lines)

    def _memory(self) -> list[str]:
        found = self.compiled
        rows = [("parameters", found.parameters)]
        if self.program == STEP:
            rows.append(("optimiser state", found.optimizer))
        rows.append(("batch", found.batch))
        if found.arguments:
            rows += [
                ("arguments, as laid out", found.arguments),
                *([("there, and not read", found.unread)] if found.unread else []),
                ("results of their own", found.new_results),
                ("temporary", found.temporary),
                ("program", found.code),
                ("at once, gaps aside", found.peak),
                ("largest array", found.largest),
            ]
        return [f"  {name:<28}{_gb(size)}" for name, size in rows]

    def _program(self) -> list[str]:
        found = self.compiled
        kernels = [f"{name} x {count}" for name, count in found.kernels.items()]
        moved = [
            f"{kind} x {each.count} ({each.bytes / 1e9:.3f} GB)"
            for kind, each in found.collectives.items()
        ]
        return [
            f"conditionals {found.conditionals}, at least {self.demanded_conditionals} "
            f"for the gates; loops {found.whiles}; {found.program_mb} MB of program",
            f"kernels: {', '.join(kernels) or 'none'}",
            f"collectives, what a chip gets in a step: {', '.join(moved) or 'none'}",
            self._speed(),
        ]

    def _speed(self) -> str:
        best = "at 40 % of what the chips can do"
        if self.program == STEP:
            return (
                f"{self.flops / 1e12:.2f} TFLOP a step with every layer on: "
                f"{self.step_seconds:.3f} s {best}"
            )
        if self.program == PREFILL:
            return (
                f"{self.flops / 1e9:.2f} GFLOP a prefill at {self.budget}: "
                f"{1e3 * self.step_seconds:.3f} ms {best}"
            )
        return (
            f"{self.flops / 1e9:.2f} GFLOP a token of every answer at {self.budget}; "
            f"to read all arguments once takes a chip {1e3 * self.read_seconds:.3f} ms"
        )


def _gb(size: int) -> str:
    return f"{size / 1e9:8.3f}"
