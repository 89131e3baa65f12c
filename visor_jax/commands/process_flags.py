"""Flags of a program that runs as several processes, and its start as one of them.

On a TPU pod, under Slurm, Open MPI or GKE the cluster says who the others are. Else
every process is told, by flags or by the environment:

    python -m ... --coordinator=HOST:PORT --num_processes=2 --process_id=0
    VISOR_COORDINATOR=HOST:PORT VISOR_NUM_PROCESSES=2 VISOR_PROCESS_ID=1 python -m ...
"""

import logging
import os

import jax
from absl import flags

from visor_jax.runtime import processes

_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    None,
    "Whether this is one of several processes; by default if Slurm, Open MPI or GKE "
    "started several, or a coordinator is given. On a TPU pod it has to be said.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where no cluster says it."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes there are."
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_START_TIMEOUT = flags.DEFINE_integer(
    "start_timeout", 300, "Seconds to wait for all processes at the start."
)

_logger = logging.getLogger("visor_jax.commands.process_flags")


def start_processes() -> None:
    """Makes this one of the run's processes, if flags or a launcher say that it is.

    Raises:
      ValueError: if they leave open who the others are.
    """
    given = processes.ProcessSettings(
        coordinator=_COORDINATOR.value or os.environ.get("VISOR_COORDINATOR"),
        count=_number(_NUM_PROCESSES, "VISOR_NUM_PROCESSES"),
        index=_number(_PROCESS_ID, "VISOR_PROCESS_ID"),
        timeout_s=_START_TIMEOUT.value,
    )
    wanted = _DISTRIBUTED.value
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


def _number(flag: flags.FlagHolder, variable: str) -> int | None:
    text = os.environ.get(variable)
    if flag.value is not None or text is None:
        return flag.value
    if not text.isdecimal():
        raise ValueError(f"The environment has {variable}={text!r}: give a number.")
    return int(text)
