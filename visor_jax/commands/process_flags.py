"""Flags of a program that runs as several processes, and its start as one of them.

On a TPU pod, under Slurm, Open MPI or GKE the cluster says who the others are. Else
every process is told, by flags or by the environment:

    python -m ... --coordinator=HOST:PORT --num_processes=2 --process_id=0
    VISOR_COORDINATOR=HOST:PORT VISOR_NUM_PROCESSES=2 VISOR_PROCESS_ID=1 python -m ...
"""

import logging
import os
from typing import Any

from absl import flags

_logger = logging.getLogger("visor_jax.commands.process_flags")


def define_process_flags() -> None:
    """Declares how a process finds the others."""
    flags.DEFINE_bool(
        "distributed",
        None,
        "Whether this is one of several processes; by default if Slurm, Open MPI or "
        "GKE started several, or a coordinator is given. On a TPU pod it has to be "
        "said.",
    )
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0, where no cluster says it."
    )
    flags.DEFINE_integer("num_processes", None, "How many processes there are.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
    flags.DEFINE_integer(
        "start_timeout", 300, "Seconds to wait for all processes at the start."
    )


def start_processes(options: Any) -> None:
    """Makes this one of the run's processes, if flags or a launcher say that it is.

    Raises:
      ValueError: if they leave open who the others are.
    """
    # Not at import: declaring the flags takes no jax.
    import jax

    from visor_jax.runtime import processes

    given = processes.ProcessSettings(
        coordinator=options.coordinator or os.environ.get("VISOR_COORDINATOR"),
        count=_number(options.num_processes, "VISOR_NUM_PROCESSES"),
        index=_number(options.process_id, "VISOR_PROCESS_ID"),
        timeout_s=options.start_timeout,
    )
    wanted = options.distributed
    if wanted is None:
        started_by_launcher = processes.is_one_of_several(os.environ)
        wanted = given.coordinator is not None or started_by_launcher
    if not wanted:
        return
    processes.start(given)
    _logger.info("%s", processes.describe_process())
    if jax.process_index() > 0:
        # What the first one says of the run holds for all.
        logging.getLogger("visor_jax").setLevel(logging.WARNING)


def _number(given: int | None, variable: str) -> int | None:
    text = os.environ.get(variable)
    if given is not None or text is None:
        return given
    if not text.isdecimal():
        raise ValueError(f"The environment has {variable}={text!r}: give a number.")
    return int(text)
