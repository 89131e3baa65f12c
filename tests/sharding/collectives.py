"""What a compiled program sends between devices, read from its text."""

import dataclasses
import re

KINDS = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all"),
    "collective-permute",
)
_SHAPE = re.compile(r"([a-z]+[0-9]*)\[([0-9,]*)\]")
_LINE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
_NAME = re.compile(r"(%[\w.\-]+) = ")
_USED = re.compile(r"%[\w.\-]+")
_SCOPE = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program.

    results: (dtype, shape) of each array it makes on a device.
    scopes: the modules that it came from, "jit(step)/.../layers_1.full/q_proj/...", or,
      where the compiler names none, those in which its result is used.
    """

    kind: str
    results: tuple[tuple[str, tuple[int, ...]], ...]
    scopes: tuple[str, ...]

    @property
    def numbers(self) -> list[tuple[int, ...]]:
        """The shapes of the floating-point arrays among the results."""
        return [shape for dtype, shape in self.results if "f" in dtype]


def collectives(program: str) -> list[Collective]:
    """Returns all collectives of a program's text (`jax.stages.Compiled.as_text`)."""
    found = []
    for lines in _computations(program):
        for line in lines:
            if match := _LINE.search(line):
                scopes = _scopes(line, lines)
                found.append(Collective(match[2], _shapes(match[1]), scopes))
    return found


def _computations(program: str) -> list[list[str]]:
    """Returns the lines of each computation; names mean something within one."""
    computations: list[list[str]] = [[]]
    for line in program.splitlines():
        if line.endswith("{"):
            computations.append([])
        computations[-1].append(line)
    return computations


def _scopes(line: str, lines: list[str]) -> tuple[str, ...]:
    """Returns the scope of an instruction, or of those that use what it makes.

    Copies of it are no use: their scope is where something is remembered, if anything.
    """
    own = _SCOPE.search(line)
    # A parameter's name alone is no module.
    if own and "/" in own[1] and not own[1].endswith("/remat2"):
        return (own[1],)
    name = _NAME.search(line)[1]
    users = [
        each
        for each in lines
        if each is not line and name in _USED.findall(each.partition(" = ")[2])
    ]
    return tuple(sorted({scope for each in users for scope in _scopes(each, lines)}))


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
