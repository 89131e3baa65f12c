"""Begins a run with the parameters of a checkpoint: an imported one, or another run's.

A dense checkpoint may become a VISOR network: the adapters, which it lacks, stay new,
and their zero output leaves everything else as it was. So does a projector's
convolution, which begins as zero.
"""

import dataclasses
import logging
import re
from collections.abc import Collection
from typing import Any

import flax.traverse_util
from etils import epath

from visor_jax.checkpoints import layout, workdir_files
from visor_jax.checkpoints.restore import (
    check_fits,
    list_arrays,
    newest_readable,
    read_part,
)
from visor_jax.checkpoints.stored_network import StoredNetwork
from visor_jax.models.adapters import OWN, RANDOM, own_sources
from visor_jax.models.config import VLMConfig
from visor_jax.models.vision.projector import CONVOLUTION_PATTERN

Params = Any
_logger = logging.getLogger(__name__)

# What only a training with the reading loss has a use for.
_MAY_BE_LEFT = re.compile(r"^reading_heads_\w+/")
# What a checkpoint may lack.
_PARTS = {
    "adapters": r"(^|/)cross_attention/",
    "reading heads": r"(^|/)reading_heads_\w+/",
    "parameters of a token reduction": r"(^|/)token_compressor/",
    "convolution behind its projector": CONVOLUTION_PATTERN,
}
_MAY_BE_NEW = re.compile("|".join(_PARTS.values()))
_WITHOUT = " (--config.model.projector_convolution=0 does without.)"
# Settings of new parameters and of the computation, not of what the parameters mean.
_MAY_DIFFER = ("init_std", "embedding_init_std", "max_positions")


def warm_start(
    path: str, config: VLMConfig, abstract: Params, *, adapter_init: str = RANDOM
) -> Params:
    """Returns the checkpoint's parameters in the dtypes and places of the run.

    Args:
      path: workdir or checkpoint.
      config: the run's network.
      abstract: shapes, dtypes and shardings of all its parameters.
      adapter_init: what adapters start as that the checkpoint lacks; random ones are
        not among the parameters that are returned.

    Raises:
      ValueError: if there is no checkpoint, or if it is of another network: sizes and
        constants must agree, it may lack adapters, reading heads, the projector's
        convolution and a token reduction's parameters alone, and have nothing else but
        reading heads.
    """
    flat = flax.traverse_util.flatten_dict(abstract, sep="/")

    def read(step: epath.Path) -> Params:
        _check_same_network(path, StoredNetwork.of(step).config, config)
        stored = list_arrays(step, layout.PARAMS)
        wanted = {
            name: leaf
            for name, leaf in flat.items()
            if name in stored or not _MAY_BE_NEW.search(name)
        }
        needed = {
            name: leaf
            for name, leaf in stored.items()
            if name in wanted or not _MAY_BE_LEFT.search(name)
        }
        _tell_new(path, flat.keys() - wanted.keys())
        tree, needed = (
            flax.traverse_util.unflatten_dict(each, sep="/")
            for each in (wanted, needed)
        )
        check_fits(step, layout.PARAMS, needed, tree)
        read = read_part(step, layout.PARAMS, tree)
        lacking = flat.keys() - wanted.keys() if adapter_init == OWN else ()
        return _with_own(read, lacking)

    return newest_readable(path, read)


def _tell_new(path: str, lacking: Collection[str]) -> None:
    """Logs which parts the run has and the checkpoint lacks."""
    new = [part for part, pattern in _PARTS.items() if _any(pattern, lacking)]
    if new:
        remedy = _WITHOUT if "convolution behind its projector" in new else ""
        _logger.info("%s has no %s: new ones begin.%s", path, ", no ".join(new), remedy)


def _any(pattern: str, paths: Collection[str]) -> bool:
    return any(re.search(pattern, path) for path in paths)


def _with_own(read: Params, lacking: Collection[str]) -> Params:
    """Returns the parameters with copies for the adapters among what is lacking."""
    flat = flax.traverse_util.flatten_dict(read, sep="/")
    # Arrays of their own: a training step gives its state's memory away.
    copies = {path: flat[own].copy() for path, own in own_sources(lacking).items()}
    return flax.traverse_util.unflatten_dict({**flat, **copies}, sep="/")


def bring_processing_files(
    workdir: epath.PathLike,
    *,
    init_from: str | None = None,
    processor: str | None = None,
) -> None:
    """Copies tokenizer and processor files to the workdir of a run that needs them.

    They are those that the run's data are processed with, otherwise those of the
    checkpoint that it begins with. The embedded benchmark has neither; its tokenizer is
    known.

    Args:
      init_from: workdir or checkpoint that the run begins with.
      processor: folder of such files that the configuration names.

    Raises:
      ValueError: if `init_from` holds no checkpoint.
    """
    folders = [] if processor is None else [epath.Path(processor)]
    if init_from is not None:
        # All steps of a workdir share the folder beside them.
        folders.append(workdir_files.processing_folder(layout.find_steps(init_from)[0]))
    target = epath.Path(workdir) / workdir_files.TOKENIZER
    for folder in folders:
        if (folder / workdir_files.NEEDED).exists():
            workdir_files.copy_files(workdir_files.PROCESSING_FILES, folder, target)
            return


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
    side, own_side = found.projector_convolution, wanted.projector_convolution
    # A network that has none gets one that begins as zero.
    if side not in (None, own_side):
        differing.append(
            f"projector_convolution: {side} there, {own_side} here (train with "
            f"--config.model.projector_convolution={side})"
        )
    if differing:
        raise ValueError(
            f"init_from={path!r} is of another network: {'; '.join(differing)}."
        )
