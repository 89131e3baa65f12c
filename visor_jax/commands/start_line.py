"""What a command runs on, said at its start: device, attention, kept programs."""

import logging
import os

_logger = logging.getLogger("visor_jax.commands.start_line")


def say_start(name: str | os.PathLike[str], where: str, attention: str) -> None:
    """Logs what the command works with, in one line.

    Args:
      name: of the run or network. where: its devices. attention: as it is configured.
    """
    # Not at import: declaring flags takes no jax.
    from visor_jax.runtime.compile_cache import describe_kept

    _logger.info(
        "%s: %s; attention %s; %s",
        *(os.fspath(name), where, attention, describe_kept()),
    )


def say_kernels() -> None:
    """Logs which kernels the programs made so far attend with."""
    from visor_jax.ops.attention import kernels_used

    if names := kernels_used():
        _logger.info("attention kernels: %s", ", ".join(names))
