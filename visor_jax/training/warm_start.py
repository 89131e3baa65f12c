"""Begins a run with the parameters of a checkpoint: an imported one, or another run's.

A dense checkpoint may become a VISOR network: the adapters, which it lacks, stay new,
and their zero output leaves everything else as it was.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import flax.traverse_util

from visor_jax.checkpoints import layout, workdir_files
from visor_jax.checkpoints.restore import list_arrays, load_checkpoint, read_metadata
from visor_jax.models.config import VLMConfig

Params = Any

# What a checkpoint may lack.
_MAY_BE_NEW = re.compile(r"(^|/)(cross_attention|reading_heads_\w+)/")
# Settings of new parameters and of the computation, not of what the parameters mean.
_MAY_DIFFER = ("init_std", "embedding_init_std", "max_positions")


def warm_start(path: str, config: VLMConfig, abstract: Params) -> Params:
    """Returns the checkpoint's parameters in the dtypes and places of the run.

    Args:
      path: workdir or checkpoint.
      config: the run's network.
      abstract: shapes, dtypes and shardings of all its parameters.

    Raises:
      ValueError: if there is no checkpoint, or if it is of another network: sizes and
        constants must agree, and it may lack adapters and reading heads alone.
    """
    _check_same_network(path, VLMConfig.from_dict(read_metadata(path)["model"]), config)
    stored = list_arrays(layout.find_steps(path)[0], layout.PARAMS)
    flat = flax.traverse_util.flatten_dict(abstract, sep="/")
    wanted = {
        name: leaf
        for name, leaf in flat.items()
        if name in stored or not _MAY_BE_NEW.search(name)
    }
    tree = flax.traverse_util.unflatten_dict(wanted, sep="/")
    return load_checkpoint(path, tree).params


def bring_processing_files(path: str, workdir: Path) -> None:
    """Copies the checkpoint's tokenizer and processor files to a run's workdir.

    Raises:
      ValueError: if there is no checkpoint.
    """
    source = workdir_files.processing_folder(layout.find_steps(path)[0])
    target = workdir / workdir_files.TOKENIZER
    workdir_files.copy_files(workdir_files.PROCESSING_FILES, source, target)


def _check_same_network(path: str, found: VLMConfig, wanted: VLMConfig) -> None:
    parts = ["vision", "decoder"]
    if found.plan.cross_layers:
        parts.append("adapter")
    differing = []
    for part in parts:
        theirs = dataclasses.asdict(getattr(found, part))
        ours = dataclasses.asdict(getattr(wanted, part))
        differing += [
            f"{part}.{key}: {theirs[key]!r} there, {ours[key]!r} here"
            for key in ours
            if key not in _MAY_DIFFER and theirs[key] != ours[key]
        ]
    if differing:
        raise ValueError(
            f"init_from={path!r} is of another network: {'; '.join(differing)}."
        )
