"""Every kernel against attention in float64 NumPy: outputs and gradients.

A kernel that refuses a case on this platform is skipped there, and says why. Broken
kernels show that the cases tell the difference.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.kernels import numpy_attention
from tests.ops.kernels.numpy_attention import BATCH, Tokens
from tests.tolerances import BFLOAT16, GRADIENT, REFERENCE
from visor_jax.ops.attention import KERNELS, current_platform
from visor_jax.ops.kernels.cudnn import cudnn_attend
from visor_jax.ops.kernels.kernel import KeyPart, joined
from visor_jax.ops.kernels.plain import plain_attend
from visor_jax.ops.kernels.splash import SplashKernel
from visor_jax.ops.kernels.tags import TagsKernel
from visor_jax.ops.masks import MaskForm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Tokens that attend to one another.

    parts: keys of each part. queries: how many of the tokens ask, all if None. tokens:
    makes their tags; None for no mask. form: what kernels are told of the mask; if
    WHOLE, tokens of another stream ask.
    """

    parts: tuple[int, ...]
    heads: tuple[int, int]
    width: int
    tokens: Callable[[np.random.Generator, int], Tokens] | None
    queries: int | None = None
    form: MaskForm = MaskForm.TAGS


CASES = {
    "packed, 7 heads share one": Case(
        parts=(300,), heads=(14, 2), width=64, tokens=numpy_attention.packed
    ),
    "packed, in three parts": Case(
        parts=(37, 1, 261), heads=(4, 2), width=64, tokens=numpy_attention.packed
    ),
    "packed, few queries": Case(
        parts=(290, 33),
        heads=(7, 1),
        width=128,
        tokens=numpy_attention.packed,
        queries=19,
    ),
    "padded on the right": Case(
        parts=(299,), heads=(4, 4), width=64, tokens=numpy_attention.padded_right
    ),
    "padded on the left": Case(
        parts=(270, 30), heads=(4, 2), width=72, tokens=numpy_attention.padded_left
    ),
    "known to be causal": Case(
        parts=(301,),
        heads=(14, 2),
        width=64,
        tokens=numpy_attention.unpacked,
        form=MaskForm.CAUSAL,
    ),
    "known to be causal, padded on the left": Case(
        parts=(296,),
        heads=(4, 4),
        width=72,
        tokens=numpy_attention.padded_left,
        form=MaskForm.CAUSAL,
    ),
    "seen as a whole": Case(
        parts=(291,),
        heads=(7, 7),
        width=128,
        tokens=numpy_attention.unpacked,
        queries=130,
        form=MaskForm.WHOLE,
    ),
    "no mask": Case(parts=(283,), heads=(2, 2), width=72, tokens=None),
    "no mask, in parts": Case(
        parts=(83, 190), heads=(7, 1), width=128, tokens=None, queries=5
    ),
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """Arrays of a case and what they must give; weight: of the loss, 0 if unseen."""

    query: jax.Array
    parts: list[KeyPart]
    query_tags: object
    weight: np.ndarray
    out: np.ndarray
    gradients: tuple[np.ndarray, ...]

    @property
    def inputs(self) -> tuple:
        return self.query, self.parts, self.query_tags


@functools.cache
def problem(case: Case, dtype: str) -> Problem:
    """Returns the case in this dtype, with the reference's results for those inputs."""
    rng, keys = np.random.default_rng(0), sum(case.parts)
    count = keys if case.queries is None else case.queries
    asks = np.sort(rng.permutation(keys)[:count])
    shapes = (
        (BATCH, count, case.heads[0], case.width),
        *[(BATCH, keys, case.heads[1], case.width)] * 2,
    )
    query, key, value = (jnp.asarray(rng.normal(size=s), dtype) for s in shapes)
    mask, tokens = np.ones((BATCH, count, keys), bool), None
    if case.tokens is not None:
        tokens = case.tokens(rng, keys)
        asked = tokens.take(asks)
        if case.form is MaskForm.WHOLE:
            asked = numpy_attention.around(rng, tokens, count)
        mask = numpy_attention.mask_of(asked, tokens)
        # What an invalid token gives is nobody's business.
        mask &= asked.valid[..., None]
    weight = rng.normal(size=query.shape) * mask.any(axis=-1)[..., None, None]
    out, gradients = numpy_attention.attention(query, key, value, mask, weight)
    parts = []
    for start, stop in itertools.pairwise((0, *itertools.accumulate(case.parts))):
        span = np.arange(start, stop)
        tags = None if tokens is None else tokens.take(span).tags
        own = key[:, start:stop], value[:, start:stop]
        parts.append(KeyPart(*own, tags, case.form))
    query_tags = None if tokens is None else asked.tags
    return Problem(query, parts, query_tags, weight, out, gradients)


def check(kernel: Callable, case: Case, dtype: str = "float32") -> None:
    """Fails if the kernel's output or a gradient is not the reference's."""
    given = problem(case, dtype)

    def loss(query, keys, values):
        parts = [
            part._replace(key=key, value=value)
            for part, key, value in zip(given.parts, keys, values, strict=True)
        ]
        out = kernel(query, parts, given.query_tags)
        return (out.astype(jnp.float32) * given.weight).sum(), out

    arrays = given.query, *([part[i] for part in given.parts] for i in (0, 1))
    # What is interpreted in bfloat16 runs for a quarter of a minute otherwise.
    slow = getattr(kernel, "interpret", False) and dtype == "bfloat16"
    options = {"xla_backend_optimization_level": 3} if slow else None
    gradient = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)
    run = jax.jit(gradient, compiler_options=options)
    (d_query, *d_parts), out = run(*arrays)
    gradients = d_query, *(jnp.concatenate(d, axis=1) for d in d_parts)
    assert out.dtype == given.query.dtype
    assert np.isfinite(np.asarray(out, np.float64)).all()
    seen = given.weight != 0
    _compare(np.where(seen, out, 0), np.where(seen, given.out, 0), dtype, REFERENCE)
    for found, expected in zip(gradients, given.gradients, strict=True):
        assert np.abs(expected).max() > 0.1
        _compare(found, expected, dtype, GRADIENT)


def _compare(found, expected, dtype, tolerance) -> None:
    found = np.asarray(found, np.float64)
    if dtype == "bfloat16":
        largest, tolerance = np.abs(expected).max(), BFLOAT16
        found, expected = found / largest, expected / largest
    np.testing.assert_allclose(found, expected, **tolerance)


def cudnn_elsewhere(query, parts, query_tags):
    """What `cudnn` makes of tokens and lengths, computed by the compiler of a CPU."""
    del query_tags
    return cudnn_attend(query, joined(parts), implementation="xla")


@pytest.mark.parametrize(
    "case", [n for n, c in CASES.items() if c.form is not MaskForm.TAGS or not c.tokens]
)
def test_cudnn_is_given_the_right_order_and_lengths(case):
    check(cudnn_elsewhere, CASES[case])


def test_cudnn_takes_a_row_without_any_key():
    """...in which nobody asks, or an image that is not there."""
    given = problem(CASES["seen as a whole"], "float32")
    (part,) = given.parts
    nothing = part.tags.replace(valid=jnp.zeros_like(part.tags.valid))

    def loss(query, part):
        return cudnn_elsewhere(query, [part], None).sum()

    for form, query in ((MaskForm.WHOLE, given.query), (MaskForm.CAUSAL, part.key)):
        empty = part._replace(tags=nothing, form=form)
        value, gradient = jax.value_and_grad(loss)(query, empty)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


# Kernels of other platforms, run here step by step; blocks small enough for several.
INTERPRETED = {
    "tags": TagsKernel(block=128, interpret=True),
    "splash": SplashKernel(block=128, interpret=True),
}


# Interpreted cases take seconds each. One of bfloat16 for each kernel shows it; and
# what is known of a mask is nothing to `tags`: others are for those who work on them.
IN_BFLOAT16 = {"tags": "packed, in three parts", "splash": "seen as a whole"}


def _is_slow(name: str, case: str, dtype: str) -> bool:
    if name not in INTERPRETED:
        return False
    known = name == "tags" and CASES[case].form is MaskForm.CAUSAL
    return known or (dtype == "bfloat16" and case != IN_BFLOAT16[name])


RUNS = [
    pytest.param(*run, marks=[pytest.mark.slow] * _is_slow(*run))
    for run in itertools.product(KERNELS, CASES, ("float32", "bfloat16"))
]


@pytest.mark.parametrize(("name", "case", "dtype"), RUNS)
def test_every_kernel_is_the_same_mathematics(name, case, dtype):
    kernel = INTERPRETED.get(name, KERNELS[name])
    given = problem(CASES[case], dtype)
    reason = kernel.refuses(given.query, given.parts, current_platform())
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    check(kernel, CASES[case], dtype)


def _changed(**changes: Callable) -> Callable:
    """Returns a plain kernel that reads other tags than it is given."""

    def change(tags):
        return tags.replace(**{k: f(getattr(tags, k)) for k, f in changes.items()})

    def broken(query, parts, query_tags):
        parts = [part._replace(tags=change(part.tags)) for part in parts]
        return plain_attend(query, parts, change(query_tags))

    return broken


def _heads_the_other_way(query, parts, query_tags):
    """Query head j reads key/value head j % K instead of j // (N // K)."""
    batch, length, _, width = query.shape
    kv_heads = parts[0].key.shape[2]
    turned = query.reshape(batch, length, -1, kv_heads, width).swapaxes(2, 3)
    out = plain_attend(turned.reshape(query.shape), parts, query_tags)
    out = out.reshape(batch, length, kv_heads, -1, width).swapaxes(2, 3)
    return out.reshape(query.shape)


BROKEN = {
    "segments are ignored": _changed(segments=jnp.zeros_like),
    "invalid keys are seen": _changed(valid=jnp.ones_like),
    "the future is seen": _changed(order=jnp.zeros_like),
    "place in memory counts as order": _changed(
        order=lambda order: jnp.broadcast_to(jnp.arange(order.shape[1]), order.shape)
    ),
    "wrong heads share": _heads_the_other_way,
    "the last part is forgotten": lambda query, parts, tags: plain_attend(
        query, parts[:-1], tags
    ),
    "scores are not scaled": lambda query, parts, tags: plain_attend(
        query * query.shape[-1] ** 0.5, parts, tags
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_kernel_is_caught(fault):
    case = CASES["packed, in three parts"]
    check(plain_attend, case)
    with pytest.raises(AssertionError):
        check(BROKEN[fault], case)
