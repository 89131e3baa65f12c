"""Part 1: every attention kernel at the shapes of the networks.

Forward alone, and the gradient (which begins with the forward pass). error: the largest
difference from the plain kernel in float32, over that one's largest value.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array

from visor_jax.ops.attention import KERNELS, current_platform
from visor_jax.ops.kernels.kernel import KeyPart
from visor_jax.ops.kernels.plain import plain_attend
from visor_jax.ops.masks import MaskForm, TokenTags, form_between
from visor_jax.timing.accelerator.measure import (
    Deadline,
    Job,
    attempted,
    compile_all,
    failure,
    program_times,
)
from visor_jax.timing.accelerator.record import Row

# Runs of a kernel in one program, each on what the one before returned: a launch costs
# nothing beside them. The others' runs are long.
_RUNS = {"cudnn": 8}
_RUNS_OF_OTHERS = 2
# Products of a gradient, in those of the forward pass: once more, and twice of each.
_GRADIENT = 3.5
_REFERENCE = "float32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """queries, keys, (query heads, key heads), width; what the mask is.

    causal: token by token; else every query sees every key. tagged: the network says so
    by tags, and by their form; else there is no mask.
    """

    queries: int
    keys: int
    heads: tuple[int, int]
    width: int
    causal: bool = False
    tagged: bool = True
    rows: int = 1

    @property
    def flops(self) -> int:
        """Of the pairs that see each other, forward."""
        pairs = self.queries * self.keys
        if self.causal:
            pairs = self.queries * (self.queries + 1) // 2
        return 4 * self.rows * self.heads[0] * self.width * pairs

    def inputs(self) -> tuple[Array, Array, Array]:
        """Returns random query, key and value."""
        shapes = (
            (self.rows, self.queries, self.heads[0], self.width),
            *[(self.rows, self.keys, self.heads[1], self.width)] * 2,
        )
        keys = jax.random.split(jax.random.key(0), 3)
        return tuple(
            jax.random.normal(key, shape, jnp.bfloat16)
            for key, shape in zip(keys, shapes, strict=True)
        )

    def tags(self) -> tuple[TokenTags, ...]:
        """Returns the tags of queries and keys; one for both if causal, or none."""
        if not self.tagged:
            return ()
        if self.causal:
            return (_tags(self.rows, 0, self.keys, MaskForm.CAUSAL),)
        queries = _tags(self.rows, self.keys, self.queries, MaskForm.CAUSAL)
        return queries, _tags(self.rows, 0, self.keys, MaskForm.WHOLE)


def _tags(rows: int, first: int, count: int, form: MaskForm) -> TokenTags:
    order = jnp.broadcast_to(first + jnp.arange(count, dtype=jnp.int32), (rows, count))
    return TokenTags(
        order=order,
        segments=jnp.zeros_like(order),
        valid=jnp.ones_like(order, bool),
        form=form,
    )


_05B, _05B_CROSS, _7B = ((14, 2), 64), ((14, 14), 64), ((28, 4), 128)


def shapes(*, tiny: bool) -> dict[str, Shape]:
    """Returns what is measured, by name."""

    def of(heads: tuple, queries: int, keys: int | None = None, **more: int) -> Shape:
        causal, keys = keys is None, queries if keys is None else keys
        heads, width = heads
        return Shape(
            queries=queries, keys=keys, heads=heads, width=width, causal=causal, **more
        )

    if tiny:
        return {"SELF 40, 7/1 x 64": of(((7, 1), 64), 40)}
    tower = functools.partial(of, ((16, 16), 72), 729, 729, tagged=False)
    return {
        "SELF 8448, 14/2 x 64": of(_05B, 8448),
        "CROSS 1024 x 7353, 14/14 x 64": of(_05B_CROSS, 1024, 7353),
        "tower 31 x 729, 16/16 x 72": tower(rows=31),
        "SELF 3968, 14/2 x 64": of(_05B, 3968),
        "SELF 3968, 28/4 x 128": of(_7B, 3968),
        "CROSS 1024 x 2944, 14/14 x 64": of(_05B_CROSS, 1024, 2944),
        "text 1024, 14/2 x 64": of(_05B, 1024),
        "tower 5 x 729, 16/16 x 72": tower(rows=5),
    }


def rows(*, tiny: bool, deadline: Deadline) -> Iterator[Row]:
    """Yields every kernel's forward pass and gradient at every shape."""
    for name, shape in shapes(tiny=tiny).items():
        deadline.check(0.0 if tiny else 12.0)
        yield from _rows(name, shape, deadline)


def _rows(name: str, shape: Shape, deadline: Deadline) -> Iterator[Row]:
    inputs, tags = shape.inputs(), shape.tags()
    part = _part(*inputs[1:], tags)
    kernels, jobs = {_REFERENCE: _in_float32}, {}
    for kernel, run in KERNELS.items():
        reason = None
        if kernel != "plain":  # It refuses long rows; here it is compared.
            reason = run.refuses(inputs[0], [part], current_platform())
        if reason is None:
            kernels[kernel] = run
        else:
            yield {"shape": name, "kernel": kernel, "refused": reason}
    for kernel, run in kernels.items():
        for what, once in (("forward", _forward), ("gradient", _gradient)):
            count = 1 if kernel == _REFERENCE else _runs(kernel)
            repeated = functools.partial(_repeated, functools.partial(once, run), count)
            jobs[what, kernel] = Job(repeated, (tags, *inputs))
    programs = compile_all(jobs, deadline)
    for (what, kernel), program in programs.items():
        row = {"what": what, "shape": name, "kernel": kernel, "rows": shape.rows}
        if isinstance(program, Exception):
            yield row | {"failed": failure(program)}
        elif kernel != _REFERENCE:
            row["flops"] = shape.flops * (_GRADIENT if what == "gradient" else 1)
            measured = functools.partial(
                program_times,
                program,
                tags,
                *inputs,
                deadline=deadline,
                each=_runs(kernel),
            )
            row = attempted(row, measured)
            compared = (program, programs[what, _REFERENCE], (tags, *inputs))
            yield attempted(row, lambda c=compared: {"error": _difference(*c)})


def _runs(kernel: str) -> int:
    return _RUNS.get(kernel, _RUNS_OF_OTHERS)


def _in_float32(query: Array, parts: list[KeyPart], query_tags: TokenTags | None):
    (part,) = parts
    part = part._replace(
        key=part.key.astype(jnp.float32), value=part.value.astype(jnp.float32)
    )
    with jax.default_matmul_precision("highest"):
        return plain_attend(query.astype(jnp.float32), [part], query_tags)


def _part(key: Array, value: Array, tags: tuple[TokenTags, ...]) -> KeyPart:
    if not tags:
        return KeyPart(key, value, None)
    return KeyPart(key, value, tags[-1], form_between(tags[0], tags[-1]))


def _forward(run: Callable, tags: tuple, query, key, value) -> tuple:
    query_tags = tags[0] if tags else None
    mixed = run(query, [_part(key, value, tags)], query_tags)
    return mixed, key, value


def _gradient(run: Callable, tags: tuple, *inputs: Array) -> tuple:
    weight = jax.random.normal(jax.random.key(1), inputs[0].shape)

    def loss(*inputs: Array) -> Array:
        mixed, _, _ = _forward(run, tags, *inputs)
        return (mixed * weight).sum()

    return jax.grad(loss, argnums=(0, 1, 2))(*inputs)


def _repeated(
    step: Callable, count: int, tags: tuple, *inputs: Array
) -> tuple[tuple, tuple]:
    """Returns what the first and the last of `count` steps return."""
    first = step(tags, *inputs)
    last = jax.lax.fori_loop(0, count - 1, lambda _, x: step(tags, *x), first)
    return first, last


def _difference(program, reference, inputs: tuple) -> float | None:
    if isinstance(reference, Exception):
        return None
    pairs = zip(program.run(*inputs)[0], reference.run(*inputs)[0], strict=True)
    worst = 0.0
    for found, expected in pairs:
        gap = jnp.abs(found.astype(jnp.float32) - expected.astype(jnp.float32)).max()
        worst = max(worst, float(gap / jnp.abs(expected.astype(jnp.float32)).max()))
    return worst
