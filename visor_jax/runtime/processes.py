"""Starts this program as one of several processes, and makes sure that all arrive.

A run on several hosts is the same command on each. Who the others are is found out from
the cluster (a TPU pod, Slurm, Open MPI, Kubernetes) or given as `ProcessSettings`.
"""

import contextlib
import dataclasses
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping

import jax
import orbax.checkpoint as ocp

from visor_jax.runtime import peers

ANY, ACCELERATOR = "any", "accelerator"
PLATFORMS = (ANY, ACCELERATOR, "cpu", "gpu", "tpu")
NOT_ALL_ARRIVED = 3

# A process that says nothing for so long is taken for dead and ends all others. The
# same holds for one that wants to leave while the others do not.
_SILENCE_SECONDS = 30
# What jax itself waits at the start: longer than this module, whose message says more.
_SPARE_SECONDS = 60
_WHOLE_STAGE_SECONDS = 7 * 24 * 3600


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """How the processes of a run find one another; None: the cluster says it.

    coordinator: HOST:PORT of process 0, which listens there.
    count: number of processes. index: of this one, from 0.
    timeout_s: how long to wait for all of them.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    timeout_s: int = 300

    def __post_init__(self) -> None:
        if (self.count is None) != (self.index is None):
            raise ValueError(
                "--num_processes and --process_id go together: give both or neither."
            )
        if self.count is not None and self.coordinator is None:
            raise ValueError(
                "--num_processes needs --coordinator=HOST:PORT, the same for all "
                "processes: an address of process 0 and a free port there."
            )
        if self.count is not None and not 0 <= self.index < self.count:
            raise ValueError(
                f"--process_id={self.index} is not in 0..{self.count - 1}."
            )
        if self.coordinator and not self.coordinator.rpartition(":")[2].isdecimal():
            raise ValueError(f"--coordinator={self.coordinator} is not HOST:PORT.")
        if self.timeout_s < 1:
            raise ValueError(f"--start_timeout={self.timeout_s} must be at least 1.")


def is_one_of_several(environment: Mapping[str, str]) -> bool:
    """Returns whether a launcher that the environment speaks of started several.

    Slurm (inside srun), Open MPI and GKE say so; on a TPU VM nothing does, so there
    `--distributed` must.
    """
    tasks = environment.get("SLURM_NTASKS", "1")
    return (
        ("SLURM_STEP_NODELIST" in environment and tasks != "1")
        or environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1"
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    )


def start(settings: ProcessSettings) -> None:
    """Makes this process one of the run's; returns when all of them have arrived.

    Call it before anything touches a device. From then on they hear of one another's
    failures (`peers`). Where some do not arrive in time, the
    program ends with exit code `NOT_ALL_ARRIVED` and a message that says what to check.

    Raises:
      ValueError: if the settings leave open what no cluster says.
    """
    with _giving_up(settings):
        try:
            jax.distributed.initialize(
                settings.coordinator,
                settings.count,
                settings.index,
                cluster_detection_method=_detection(settings),
                initialization_timeout=settings.timeout_s + _SPARE_SECONDS,
                heartbeat_timeout_seconds=_SILENCE_SECONDS,
                shutdown_timeout_seconds=_SILENCE_SECONDS,
            )
        except ValueError as error:
            raise ValueError(
                f"No cluster says who the processes are ({error}): give --coordinator="
                "HOST:PORT, --num_processes and --process_id, or --nodistributed to "
                "run on this machine alone."
            ) from error
        # Only now every process knows all devices.
        jax.devices()
    peers.join(jax.process_index(), jax.process_count())


def check_started() -> None:
    """Raises ValueError if jax sees several processes that do not know of each other.

    A TPU pod does that: its devices span hosts before anything is started.
    """
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise ValueError(
            f"The devices here belong to {jax.process_count()} processes: start the "
            "same command on every host, with --distributed."
        )


def check_platform(wanted: str) -> None:
    """Raises ValueError if the devices are not of the platform that was asked for.

    wanted: one of `PLATFORMS`; "accelerator" is anything but a CPU.
    """
    found = jax.default_backend()
    if wanted in (ANY, found) or (wanted == ACCELERATOR and found != "cpu"):
        return
    raise ValueError(
        f"The configuration asks for platform={wanted!r} and jax found {found!r} "
        f"({jax.device_count()} x {jax.devices()[0].device_kind}): install jax for "
        "the accelerator (pip install -U 'jax[tpu]' or 'jax[cuda13]'), see that no "
        "other program holds it and that JAX_PLATFORMS does not name another; or say "
        f"--config.platform={found} to run here all the same."
    )


def describe_process() -> str:
    """Returns e.g. "process 1 of 4, 8 of 32 devices"."""
    return (
        f"process {jax.process_index()} of {jax.process_count()}, "
        f"{jax.local_device_count()} of {jax.device_count()} devices"
    )


@contextlib.contextmanager
def first_process_first(name: str) -> Iterator[None]:
    """What is inside runs on process 0, and only then on the others.

    For work that leaves its result in a cache which the others read. Everything else
    that must happen once, however long it takes, fits inside as well.

    name: no other use in this program has the same.
    """
    if jax.process_index() > 0:
        _meet(name)
    yield
    if jax.process_index() == 0:
        _meet(name)


def wait_for_all(name: str) -> None:
    """Returns when every process has called this; `name` is used once."""
    _meet(name)


def _meet(name: str) -> None:
    if jax.process_count() > 1:
        # A message, not a collective of the devices: those give up after a while.
        barrier = ocp.multihost.get_barrier_sync_fn()
        barrier(key=name, timeout_ms=_WHOLE_STAGE_SECONDS * 1000)


def _detection(settings: ProcessSettings) -> str | None:
    return None if settings.count is None else "deactivate"


@contextlib.contextmanager
def _giving_up(settings: ProcessSettings) -> Iterator[None]:
    """Ends the program with a message if what is inside takes too long.

    jax ends it too, from native code: nothing can be caught, and its message names a
    remote procedure call.
    """

    def give_up() -> None:
        print(f"error: {_what_to_check(settings)}", file=sys.stderr, flush=True)
        os._exit(NOT_ALL_ARRIVED)

    timer = threading.Timer(settings.timeout_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _what_to_check(settings: ProcessSettings) -> str:
    count = settings.count or "all"
    which = "this process" if settings.index is None else f"process {settings.index}"
    where = settings.coordinator or "the address that the cluster gives"
    return (
        f"after {settings.timeout_s} s {which} still waits for {count} processes to "
        f"meet at {where} ({_answer(settings)}). Check that the same command was "
        "started on every host (TPU VM: --worker=all), with the same --coordinator "
        "and --num_processes and with every --process_id once; that the name leads to "
        "process 0 from every host; and that a firewall leaves the port open between "
        "them (JAX_COORDINATOR_PORT picks another where the cluster gives the "
        "address). --start_timeout waits longer."
    )


def _answer(settings: ProcessSettings) -> str:
    """Returns what this process sees of the coordinator."""
    if settings.coordinator is None:
        return "not known here"
    if settings.index == 0:
        return "this process listens there"
    host, _, port = settings.coordinator.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return "it answers, so others have not come"
    except OSError as error:
        return f"it does not answer: {error}"
