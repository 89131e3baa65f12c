"""What stands in a compiled program's text: kernels, collectives, conditionals.

A program is computations that call one another; the body of a loop runs as often as
the loop turns, which the compiler writes beside it:

    %while.3 = (...) while(...), condition=%c, body=%b, ... "known_trip_count":{"n":"8"}

So a collective in `%b` counts eight times in the bytes of a step.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

_COLLECTIVES = (
    *("all-gather", "all-reduce", "reduce-scatter"),
    *("all-to-all", "collective-permute"),
)
_BITS = {"pred": 8, "s4": 4, "u4": 4, "token": 0}
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*\) )?(?:->.*)?\{$")
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(")
_CALLED = re.compile(
    r"(?:body|condition|calls|to_apply|true_computation|false_computation)="
    r"%?([\w.\-]+)"
)
_CALLED_LISTS = re.compile(r"(?:branch|called)_computations=\{([^}]*)\}")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """All of one kind. count: in the text. bytes: that a device gets in one step."""

    count: int
    bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramText:
    """Counts of a compiled program.

    kernels: {name: how often it stands there}, of those written here.
    largest: bytes of the largest array on a device. megabytes: of the text.
    """

    conditionals: int
    whiles: int
    kernels: dict[str, int]
    collectives: dict[str, Collective]
    largest: int
    megabytes: float


@dataclasses.dataclass(frozen=True)
class _Operation:
    name: str
    shape: str
    kind: str
    line: str


def read_program(text: str) -> ProgramText:
    """Returns the counts of a compiled program, as `Compiled.as_text` gives it."""
    computations = dict(_computations(text))
    entry = _entry(text)
    times = _times(computations, entry)
    kinds = collections.Counter(
        operation.kind for body in computations.values() for operation in body
    )
    kernels: collections.Counter[str] = collections.Counter()
    counts: collections.Counter[str] = collections.Counter()
    moved: collections.Counter[str] = collections.Counter()
    for name, body in computations.items():
        for operation in body:
            if 'custom_call_target="tpu_custom_call"' in operation.line:
                kernels[re.sub(r"(\.\d+)+$", "", operation.name)] += 1
            kind = operation.kind.removesuffix("-start")
            if kind in _COLLECTIVES:
                counts[kind] += 1
                moved[kind] += times[name] * _received(operation)
    return ProgramText(
        conditionals=kinds["conditional"],
        whiles=kinds["while"],
        kernels=dict(sorted(kernels.items())),
        collectives={
            kind: Collective(count=counts[kind], bytes=moved[kind])
            for kind in _COLLECTIVES
            if counts[kind]
        },
        largest=max(array_bytes(text), default=0),
        megabytes=round(len(text) / 1e6, 2),
    )


def array_bytes(shape: str) -> list[int]:
    """Returns the bytes of each array that a text names: "(f32[2,8], s32[])"."""
    found = []
    for dtype, sides in _ARRAY.findall(shape):
        bits = _BITS.get(dtype) or _digits(dtype)
        size = math.prod(int(side) for side in sides.split(",") if side)
        found.append(math.ceil(size * bits / 8))
    return found


def _digits(dtype: str) -> int:
    """Returns the bits of a type as its name says: bf16, f32, f8e4m3fn."""
    found = re.match(r"[a-z]+(\d+)", dtype)
    return int(found[1]) if found else 0


def _received(operation: _Operation) -> int:
    """Returns the bytes of a collective's result on a device."""
    arrays = array_bytes(operation.shape)
    if operation.kind.endswith("-start") and operation.shape.startswith("("):
        # Beside the result stand what it is made of, and marks of its progress.
        return max(arrays, default=0)
    return sum(arrays)


def _computations(text: str) -> Iterator[tuple[str, list[_Operation]]]:
    name, body = "", []
    for line in text.splitlines():
        if not line.startswith((" ", "}")) and (found := _HEAD.match(line)):
            name, body = found[1], []
        elif line.startswith("}") and name:
            yield name, body
            name = ""
        elif found := _OPERATION.match(line):
            body.append(_Operation(found[1], found[2], found[3], line))


def _entry(text: str) -> str:
    found = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
    if found is None:
        raise ValueError("A program's text has no ENTRY.")
    return found[1]


def _times(computations: dict[str, list[_Operation]], entry: str) -> dict[str, int]:
    """Returns how often each computation runs in one step, every branch counted."""
    calls: dict[str, list[tuple[str, int]]] = {}
    for name, body in computations.items():
        calls[name] = [
            (called, _turns(operation))
            for operation in body
            for called in _called(operation.line)
            if called in computations
        ]
    times: collections.Counter[str] = collections.Counter()

    def visit(name: str, count: int) -> None:
        times[name] += count
        for called, turns in calls[name]:
            visit(called, count * turns)

    visit(entry, 1)
    return times


def _turns(operation: _Operation) -> int:
    if operation.kind != "while":
        return 1
    found = _TURNS.search(operation.line)
    return int(found[1]) if found else 1


def _called(line: str) -> Iterator[str]:
    yield from _CALLED.findall(line)
    for names in _CALLED_LISTS.findall(line):
        yield from (name.strip().lstrip("%") for name in names.split(",") if name)
