"""Measures the samples of a data set, in worker processes where there are many."""

import concurrent.futures
import dataclasses
import multiprocessing
import signal
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Int

from visor_jax.data.conversations.conversation_set import ConversationSet
from visor_jax.data.conversations.training_samples import Lengths, TrainingProcessor

_FIELDS = tuple(field.name for field in dataclasses.fields(Lengths))
# Samples that are measured at once, and how many are worth starting processes for.
_CHUNK, _MANY = 500, 20_000

Measured = tuple[Int[np.ndarray, "fields n"], dict[int, str]]


def measure(
    data: ConversationSet,
    processor: TrainingProcessor,
    *,
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:
    """Returns the fields of `Lengths` for every sample, and {sample: why it has none}.

    Args:
      workers: processes that measure where there are many samples; 0 for none.
      progress: called with the samples measured and the samples in all.

    Raises:
      ValueError: if a text cannot be read.
    """
    measured = np.zeros((len(_FIELDS), len(data)), np.int64)
    refused: dict[int, str] = {}
    starts = range(0, len(data), _CHUNK)
    if workers and len(data) >= _MANY:
        chunks = _in_processes(data, processor, starts, workers)
    else:
        chunks = (_measure_chunk(data, processor, start) for start in starts)
    for start, (lengths, why) in zip(starts, chunks, strict=True):
        stop = start + lengths.shape[1]
        measured[:, start:stop] = lengths
        refused |= why
        progress(stop, len(data))
    return measured, refused


def _measure_chunk(
    data: ConversationSet, processor: TrainingProcessor, start: int
) -> Measured:
    stop = min(start + _CHUNK, len(data))
    measured = np.zeros((len(_FIELDS), stop - start), np.int64)
    refused = {}
    for row, conversation in enumerate(data.conversations(start, stop)):
        try:
            lengths = processor.lengths(conversation)
        except ValueError as error:
            refused[start + row] = str(error)
        else:
            measured[:, row] = [getattr(lengths, name) for name in _FIELDS]
    return measured, refused


def _in_processes(
    data: ConversationSet,
    processor: TrainingProcessor,
    starts: range,
    workers: int,
) -> Iterator[Measured]:
    pool = concurrent.futures.ProcessPoolExecutor(
        workers,
        # Forked threads of other libraries would hang.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_Worker.start,
        initargs=(data, processor),
    )
    try:
        for task in [pool.submit(_Worker.measure, start) for start in starts]:
            yield task.result()
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker:
    """What a worker process keeps: a tokenizer is too large to be sent every time."""

    data: ConversationSet
    processor: TrainingProcessor

    @classmethod
    def start(cls, data: ConversationSet, processor: TrainingProcessor) -> None:
        # Ctrl-C goes to the whole group; the parent alone decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        cls.data, cls.processor = data, processor

    @classmethod
    def measure(cls, start: int) -> Measured:
        return _measure_chunk(cls.data, cls.processor, start)
