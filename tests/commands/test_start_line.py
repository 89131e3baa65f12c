"""What a command says at its start of what it runs on."""

import logging

import jax
import jax.numpy as jnp

from visor_jax.commands.start_line import say_kernels, say_start
from visor_jax.ops.attention import attend
from visor_jax.ops.kernels.kernel import KeyPart


def test_device_attention_and_programs_are_in_one_line(caplog):
    caplog.set_level(logging.INFO, "visor_jax")
    say_start("runs/a", "mesh data 1, 1 cpu device", "auto")
    said = caplog.messages[-1]
    assert said.startswith("runs/a: mesh data 1, 1 cpu device; attention auto; ")
    # The tests keep theirs.
    assert f"compiled programs in {jax.config.jax_compilation_cache_dir}" in said


def test_kernels_are_named_once_programs_are_made(caplog):
    caplog.set_level(logging.INFO, "visor_jax")
    x = jnp.ones((1, 4, 2, 8))
    for kernel in ("blockwise", "plain"):
        attend(x, [KeyPart(x, x, None)], kernel=kernel)
    say_kernels()
    named = caplog.messages[-1].removeprefix("attention kernels: ").split(", ")
    assert {"blockwise", "plain"} <= set(named)
    assert named == sorted(named)
