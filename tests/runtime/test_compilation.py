import functools

import jax
import jax.numpy as jnp
import pytest

from visor_jax.runtime.compilation import logged_compile


def test_compiles_once_logs_and_keeps_donation():
    @functools.partial(jax.jit, donate_argnums=0, static_argnums=2)
    def step(state, x, times):
        return state + x * times

    lines, seconds = [], {}
    state = jnp.zeros(3)
    compiled = logged_compile(
        "train step", step, state, jnp.ones(3), 2, log=lines.append,
        record=lambda name, s: seconds.update({name: s}),
    )  # fmt: skip
    assert not state.is_deleted()
    assert lines == [f"compiled train step in {seconds['train step']:.1f} s"]
    assert (compiled(state, jnp.ones(3)) == 2).all()
    assert state.is_deleted()
    with pytest.raises(TypeError):
        compiled(jnp.zeros(4), jnp.ones(4))


def test_abstract_arguments_are_enough():
    shape = jax.ShapeDtypeStruct((2,), jnp.float32)
    compiled = logged_compile("double", jax.jit(lambda x: 2 * x), shape)
    assert (compiled(jnp.ones(2)) == 2).all()
