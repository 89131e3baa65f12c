"""What a compiled program sends between devices, read from its text."""

import dataclasses
import re

KINDS = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all"),
    "collective-permute",
)
_SHAPE = re.compile(r"([a-z]+[0-9]*)\[([0-9,]*)\]")
_LINE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
_SCOPE = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program.

    results: (dtype, shape) of each array it makes on a device.
    scope: the modules that it came from, "jit(step)/.../layers_1.full/q_proj/...".
    """

    kind: str
    results: tuple[tuple[str, tuple[int, ...]], ...]
    scope: str

    @property
    def numbers(self) -> list[tuple[int, ...]]:
        """The shapes of the floating-point arrays among the results."""
        return [shape for dtype, shape in self.results if "f" in dtype]


def collectives(program: str) -> list[Collective]:
    """Returns all collectives of a program's text (`jax.stages.Compiled.as_text`)."""
    found = []
    for line in program.splitlines():
        match = _LINE.search(line)
        if match:
            scope = _SCOPE.search(line)
            found.append(
                Collective(match[2], _shapes(match[1]), scope[1] if scope else "")
            )
    return found


def conditional_results(program: str) -> list[list[tuple[int, ...]]]:
    """Returns for each conditional the shapes of the floats that it hands on."""
    lines = [x for x in program.splitlines() if " conditional(" in x]
    made = [_shapes(line.split(" conditional(")[0]) for line in lines]
    return [[shape for dtype, shape in results if "f" in dtype] for results in made]


def _shapes(text: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    # "/*index=5*/" stands between the results of a long tuple.
    return tuple(
        (dtype, tuple(int(n) for n in sizes.split(",") if n))
        for dtype, sizes in _SHAPE.findall(text)
    )
