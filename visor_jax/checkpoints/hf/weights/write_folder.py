"""Writes a checkpoint as a folder that transformers loads.

    config.json, model.safetensors (or shards and their index)   LLaVA-OneVision
    tokenizer, processor and chat template files                 as they were imported
    visor.safetensors, visor_config.json                         what VISOR adds
    README.md                                                    the model card

Arrays are read from the checkpoint in groups of bounded size, whatever devices it was
saved on; the model is never in memory as a whole.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import ml_dtypes  # noqa: F401  Gives NumPy the name "bfloat16".
import numpy as np
from etils import epath

from visor_jax.checkpoints import layout
from visor_jax.checkpoints.hf.backbones import backbone_of
from visor_jax.checkpoints.hf.keys.key_layouts import published
from visor_jax.checkpoints.hf.keys.key_map import (
    SAME,
    KeyRule,
    Transform,
    to_theirs,
)
from visor_jax.checkpoints.hf.model_card import model_card
from visor_jax.checkpoints.hf.weights.read_params import visor_key
from visor_jax.checkpoints.hf.weights.safetensors_file import DTYPES, write_file
from visor_jax.checkpoints.hf.weights.weights_folder import (
    CONFIG,
    INDEX,
    SINGLE,
    VISOR,
    VISOR_CONFIG,
    VisorDescription,
    extreme_budgets,
    write_visor_description,
)
from visor_jax.checkpoints.restore import list_arrays, read_some_arrays
from visor_jax.checkpoints.stored_network import StoredNetwork
from visor_jax.checkpoints.workdir_files import (
    PROCESSING_FILES,
    copy_files,
    processing_folder,
)
from visor_jax.runtime import atomic_write

# Bytes of arrays that are read at a time.
_GROUP = 256 * 2**20
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20}
_UNITS["GIB"] = 2**30


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """One tensor to write: its key, where it comes from, and its layout there."""

    key: str
    path: str
    shape: tuple[int, ...]
    transform: Transform


def parse_size(text: str) -> int:
    """Returns the bytes of a size such as "5GB". Raises ValueError otherwise."""
    found = re.fullmatch(r"(\d+) *([KMG]I?B)", text.strip().upper())
    if found is None or not int(found[1]):
        raise ValueError(f"{text!r} is no size: write for example 5GB or 500MB.")
    return int(found[1]) * _UNITS[found[2]]


def write_folder(
    step: epath.PathLike,
    out: epath.PathLike,
    *,
    max_shard_size: int,
    dtype: str | None = None,
) -> list[str]:
    """Returns the names of the files written, given a step directory.

    Args:
      out: folder to write to; made if it is not there.
      max_shard_size: bytes of one file of weights, unless one tensor has more.
      dtype: name of the dtype to write; None for the checkpoint's own.

    Raises:
      ValueError: for a damaged checkpoint, or a network that is no LLaVA-OneVision.
    """
    step, out = layout.absolute(step), Path(out)
    stored = StoredNetwork.of(step)
    config, source = stored.config, stored.source
    budgets = tuple(stored.metadata["budgets"])
    arrays = list_arrays(step, layout.PARAMS)
    target = _dtype(arrays, dtype)
    backbone = backbone_of(source)
    config_json = backbone.write_config(config, source, target.name)
    theirs, visor = _tensors(arrays, backbone.keys)
    out.mkdir(parents=True, exist_ok=True)
    written = _write_shards(step, out, theirs, target, max_shard_size)
    if visor:
        _write(step, out / VISOR, visor, target)
        written.append(VISOR)
    # config.json describes dense networks and no budgets.
    if visor or not config.plan.is_dense or budgets != extreme_budgets(config.plan):
        write_visor_description(out, VisorDescription(config=config, budgets=budgets))
        written.append(VISOR_CONFIG)
    copied = copy_files(PROCESSING_FILES, processing_folder(step), out)
    card = model_card(config, stored.metadata, target.name, written)
    atomic_write.write_text(out / "README.md", card)
    # Last: without it a folder that was not finished cannot be taken for a model.
    atomic_write.write_json(out / CONFIG, config_json)
    return [*written, *copied, "README.md", CONFIG]


def _dtype(arrays: dict[str, jax.ShapeDtypeStruct], name: str | None) -> np.dtype:
    """Returns the dtype to write: as asked, or the one that holds every array."""
    if name is not None:
        return np.dtype(name)
    found = {np.dtype(array.dtype) for array in arrays.values()}
    (only,) = found if len(found) == 1 else (np.dtype(np.float32),)
    if only not in DTYPES.values():
        raise ValueError(f"The checkpoint's dtype {only} cannot be written: name one.")
    return only


def _tensors(
    arrays: dict[str, jax.ShapeDtypeStruct], keys: Sequence[KeyRule]
) -> tuple[list[_Tensor], list[_Tensor]]:
    """Returns the tensors that the keys name, and those that VISOR adds."""
    theirs, visor = [], []
    for path, array in sorted(arrays.items(), key=lambda item: _natural(item[0])):
        found = to_theirs(path, keys)
        if found is None:
            visor.append(_Tensor(visor_key(path), path, array.shape, SAME))
            continue
        shape = found.transform.torch_shape(array.shape)
        theirs.append(_Tensor(published(found.name), path, shape, found.transform))
    return theirs, visor


def _natural(path: str) -> list[tuple[int, str]]:
    """Returns a key that sorts layer 10 after layer 9."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"(\d+)", path)
    ]


def _write_shards(
    step: epath.Path, out: Path, tensors: list[_Tensor], dtype: np.dtype, limit: int
) -> list[str]:
    shards = _split(tensors, dtype, limit)
    if len(shards) == 1:
        _write(step, out / SINGLE, tensors, dtype)
        return [SINGLE]
    names = [
        f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        for i in range(1, len(shards) + 1)
    ]
    for name, shard in zip(names, shards, strict=True):
        _write(step, out / name, shard, dtype)
    index = {
        "metadata": {"total_size": sum(_size(t, dtype) for t in tensors)},
        "weight_map": {
            t.key: name
            for name, shard in zip(names, shards, strict=True)
            for t in shard
        },
    }
    atomic_write.write_json(out / INDEX, index)
    return [*names, INDEX]


def _split(
    tensors: Iterable[_Tensor], dtype: np.dtype, limit: int
) -> list[list[_Tensor]]:
    """Returns the tensors in runs of at most `limit` bytes, one tensor at least."""
    shards: list[list[_Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        size += _size(tensor, dtype)
        if shards[-1] and size > limit:
            shards.append([])
            size = _size(tensor, dtype)
        shards[-1].append(tensor)
    return shards


def _size(tensor: _Tensor, dtype: np.dtype) -> int:
    return math.prod(tensor.shape) * dtype.itemsize


def _write(
    step: epath.Path, file: Path, tensors: Sequence[_Tensor], dtype: np.dtype
) -> None:
    groups = collections.deque(_split(tensors, dtype, _GROUP))
    by_key = {tensor.key: tensor for tensor in tensors}
    held: dict[str, np.ndarray] = {}

    def read(key: str) -> np.ndarray:
        tensor = by_key[key]
        # The file asks in the order of the groups.
        if tensor.path not in held:
            paths = [t.path for t in groups.popleft()]
            held.update(read_some_arrays(step, layout.PARAMS, paths))
        return tensor.transform.invert(held.pop(tensor.path))

    write_file(file, {t.key: t.shape for t in tensors}, dtype, read)
