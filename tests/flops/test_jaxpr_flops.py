"""The walker gives the textbook counts on operations whose cost is known."""

import jax
import jax.numpy as jnp
import pytest

from tests.flops.jaxpr_flops import count_flops


def _zeros(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_dot_general_counts_batch_rows_inner_and_columns() -> None:
    def product(a, b):
        return jnp.einsum("bqh,bmh->bqm", a, b)

    assert count_flops(product, _zeros(5, 2, 3), _zeros(5, 7, 3)) == 2 * 5 * 2 * 3 * 7


def test_elementwise_work_and_reductions_are_not_counted() -> None:
    assert count_flops(lambda a: jax.nn.softmax(a * 2 + 1).sum(), _zeros(8, 8)) == 0


@pytest.mark.parametrize(
    ("channels", "features", "groups", "taps_per_output"),
    [(3, 5, 1, 3 * 4), (6, 6, 6, 4), (6, 12, 2, 3 * 4)],
)
def test_convolution_counts_taps_per_output(
    channels: int, features: int, groups: int, taps_per_output: int
) -> None:
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (2,),
            "SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=groups,
        )

    kernel = _zeros(4, channels // groups, features)
    outputs = 2 * 5 * features  # 10 places, stride 2
    counted = count_flops(convolve, _zeros(2, 10, channels), kernel)
    assert counted == 2 * outputs * taps_per_output


def test_inner_programs_are_counted_as_often_as_they_run() -> None:
    @jax.custom_jvp
    def square(x):
        return x @ x

    square.defjvp(lambda primals, tangents: (square(primals[0]), tangents[0]))

    def program(x):
        x, _ = jax.lax.scan(lambda c, _: (c @ c, None), x, length=3)
        x = jax.jit(lambda y: y @ y)(x)
        x = jax.checkpoint(lambda y: y @ y)(x)
        return square(x)

    assert count_flops(program, _zeros(4, 4)) == (3 + 1 + 1 + 1) * 2 * 4**3


def test_cost_that_depends_on_values_is_refused() -> None:
    def branches(flag, x):
        return jax.lax.cond(flag, lambda y: y @ y, lambda y: y, x)

    def loop(x):
        return jax.lax.while_loop(lambda y: y.sum() < 1, lambda y: y @ y, x)

    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    with pytest.raises(NotImplementedError, match="static gates"):
        count_flops(branches, flag, _zeros(4, 4))
    with pytest.raises(NotImplementedError, match="how often"):
        count_flops(loop, _zeros(4, 4))
