"""Sets a data iterator to where it stood when a checkpoint was saved.

<step>/data/process_0-of-2.json     the place of every process's iterator, a file
            process_1-of-2.json     each, as grain writes them
"""

import json
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from visor_jax.checkpoints import layout

_READERS = "iterators_in_use_indices"
# The entry of the place of an iterator that only counts its batches.
_BATCHES = "next_index"
# Entries that say nothing of where a process is: which data, and how much of it is bad.
_PLAN, _BAD = "plan", "bad_records"


def restore_position(step: epath.Path, data_iterator: Iterator[Any]) -> None:
    """Sets the iterator, in place, to where it stood.

    Another number of processes goes on exactly if the place is nothing but a number of
    global batches, as it is where batches are a function of the step.

    Raises:
      DamagedCheckpointError: if the place cannot be read.
      ValueError: if the data was read by another number of workers, or by another
        number of processes of which each had a place of its own.
    """
    directory = step / layout.DATA
    process, count = jax.process_index(), jax.process_count()
    own = f"process_{process}-of-{count}.json"
    try:
        saved = {
            file.name: json.loads(file.read_text())
            for file in directory.glob("process_*.json")
        }
    except (OSError, ValueError) as error:
        raise layout.DamagedCheckpointError(
            step, f"its data position ({error})"
        ) from error
    if not saved:
        raise layout.DamagedCheckpointError(step, f"{directory} holds no data position")
    place = saved[own] if own in saved else _common_place(step, saved)
    _check_workers(directory, place, data_iterator)
    data_iterator.set_state(place)
    data_iterator.start_prefetch()


def _common_place(step: epath.Path, saved: dict[str, Any]) -> Any:
    """Returns the place of all processes that saved it. Raises ValueError if none is.

    One batch is read in every step. A place that says anything but the number of steps
    counts what one process has read: for another number of processes it would mean
    other data, without a word.
    """
    places = list(saved.values())
    plans = {place.get(_PLAN) for place in places}
    counted = [{k: v for k, v in p.items() if k not in (_PLAN, _BAD)} for p in places]
    if len(plans) == 1 and all(each == {_BATCHES: int(step.name)} for each in counted):
        return max(places, key=lambda place: place.get(_BAD, 0))
    raise ValueError(
        f"{step} has no data position for process {jax.process_index()} of "
        f"{jax.process_count()}, only {sorted(saved)}, and what is read depends on the "
        "process: go on with as many processes as saved it."
    )


def _check_workers(directory: epath.Path, place: Any, iterator: Iterator[Any]) -> None:
    """Raises ValueError unless the place fits the iterator's number of workers.

    It counts what every worker has read. With another number of them grain would go on
    with other data, without a word.
    """
    saved, current = _worker_counts(place), _worker_counts(iterator.get_state())
    if saved != current:
        raise ValueError(
            f"{directory} was saved with {saved or 'no'} data workers and this run has "
            f"{current or 'none'}: use the same number to go on with the same data."
        )


def _worker_counts(state: Any) -> list[int]:
    """Returns the number of readers of every parallel stage in a grain state.

    A stage with several readers (worker processes, interleaved datasets) lists which
    of them it uses; a stage without has no such entry.
    """
    if isinstance(state, list | tuple):
        return [count for value in state for count in _worker_counts(value)]
    if not isinstance(state, dict):
        return []
    if _READERS in state:
        return [len(state[_READERS])]
    return _worker_counts(list(state.values()))
