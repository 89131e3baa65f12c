"""Calls a command's `main` inside the test's process, which has flags of its own."""

import contextlib
from collections.abc import Iterator
from types import ModuleType

from absl import flags

from visor_jax.commands import compilation_flags


def call(command: ModuleType, *arguments: str) -> None:
    """Calls `main` with these flags; what a shell would see of it is left as it was."""
    with defined(command):
        command.main(flags.FLAGS([command.__name__, *arguments]))


@contextlib.contextmanager
def defined(command: ModuleType) -> Iterator[list[str]]:
    """Inside, this process has the command's flags; yields their names."""
    before = set(flags.FLAGS)
    command.define_flags()
    compilation_flags.define_compilation_flags()
    try:
        yield sorted(set(flags.FLAGS) - before)
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
