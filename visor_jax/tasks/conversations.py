"""The converted data of a run: the processor that the run names, and its batches."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from visor_jax.checkpoints import layout, workdir_files
from visor_jax.checkpoints.hf.processor_files import chat_reader
from visor_jax.checkpoints.restore import read_metadata
from visor_jax.data.conversations.run_data import RunData
from visor_jax.data.conversations.training_samples import TrainingProcessor
from visor_jax.data.prompts.processor import Reader
from visor_jax.runtime.interruption import Interruption
from visor_jax.settings import RunSettings
from visor_jax.training import stages


def open_conversations(
    settings: RunSettings, *, cache: Path, interruption: Interruption
) -> RunData:
    """Returns the data of a run with the plan of its batches.

    Args:
      cache: folder for measured lengths.

    Raises:
      ValueError: if the processor cannot be read, it does not fit the network, or the
        data cannot be used.
      Stopped: if asked to stop meanwhile.
    """
    data, longest = settings.data, settings.model.decoder.max_positions
    reader = _reader(settings)
    processor = TrainingProcessor(
        chat=reader.processor,
        supervision=data.supervision,
        max_length=min(data.max_length or longest, longest),
    )
    return stages.conversation_data(
        data,
        processor,
        pad_id=reader.pad_id,
        steps=settings.loop.steps,
        seed=settings.seed,
        cache=cache,
        interruption=interruption,
    )


def _reader(settings: RunSettings) -> Reader:
    source = None
    if settings.init_from is not None:
        found = read_metadata(settings.init_from).get("source") or {}
        source = found.get("config")
    with _processor_folder(settings) as folder:
        reader = chat_reader(
            settings.model, folder, source=source, template=settings.data.template
        )
    tokens, vocabulary = len(reader.tokenizer), settings.model.decoder.vocab_size
    if tokens > vocabulary:
        raise ValueError(
            f"The tokenizer has {tokens} tokens and the network {vocabulary}: they do "
            "not belong together."
        )
    return reader


@contextlib.contextmanager
def _processor_folder(settings: RunSettings) -> Iterator[Path]:
    """Yields the folder that the data section names, or that of `init_from`."""
    if settings.data.processor is not None:
        yield Path(settings.data.processor)
        return
    # All steps of a workdir share the folder beside them.
    step = layout.find_steps(settings.init_from)[0]
    with workdir_files.local_processing_folder(step) as folder:
        yield folder
