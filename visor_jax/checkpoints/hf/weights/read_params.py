"""From the tensors of a Hugging Face folder to the parameters of the network here.

First the two sets of names are matched completely, then tensors are read one by one,
each straight into its dtype and onto its devices: the model is never twice in memory.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from visor_jax.checkpoints.hf.keys.key_layouts import canonical_keys, published
from visor_jax.checkpoints.hf.keys.key_map import (
    SAME,
    KeyRule,
    Target,
    Transform,
    to_ours,
    to_theirs,
)
from visor_jax.checkpoints.hf.weights.safetensors_file import DTYPES, TensorInfo
from visor_jax.checkpoints.hf.weights.weights_folder import VISOR
from visor_jax.checkpoints.tree_report import listing

Params = Any

_HEAD, _EMBEDDING = "lm_head.weight", "language_model.embed_tokens.weight"

# What `match` complains of, in this order.
_MISSING = "missing in the files"
_MISSING_VISOR = f"missing in {VISOR}"
_UNEXPECTED = "unexpected in the files"
_MISSHAPEN = "of another shape than config.json says"
_UNREADABLE = (
    f"quantised, or of another dtype than {', '.join(DTYPES)}: use the original "
    "checkpoint"
)
_PROBLEMS = (_MISSING, _MISSING_VISOR, _UNEXPECTED, _MISSHAPEN, _UNREADABLE)

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Source:
    """The tensor that a parameter is read from, and the change of layout."""

    info: TensorInfo
    transform: Transform = SAME


def visor_key(path: str) -> str:
    """Returns the key of a parameter in the file of VISOR parameters."""
    return path.replace("/", ".")


def is_tied(weights: Mapping[str, TensorInfo], *, configured: bool) -> bool:
    """Returns whether the head is the embedding table, by configuration and content.

    A stored head that differs from the embeddings counts, whatever the configuration
    says; one that equals them bit for bit is only a copy.

    Args:
      weights: {key as stored: info}.
      configured: `tie_word_embeddings` of the configuration.
    """
    keys = canonical_keys(weights)
    if not configured or _HEAD not in keys:
        return configured
    head, embedding = weights[keys[_HEAD]], weights.get(keys.get(_EMBEDDING, ""))
    if embedding is None or _same_values(head, embedding):
        return True
    _logger.warning(
        "%s differs from the embeddings although the configuration ties them: the "
        "stored head is kept and the network is untied.",
        keys[_HEAD],
    )
    return False


def _same_values(a: TensorInfo, b: TensorInfo) -> bool:
    if a.dtype is None or b.dtype is None:
        # `match` refuses them, among whatever else is wrong.
        return True
    return a.shape == b.shape and np.array_equal(a.read(), b.read())


def match(
    weights: Mapping[str, TensorInfo],
    visor_weights: Mapping[str, TensorInfo],
    expected: Params,
    *,
    keys: Sequence[KeyRule],
    tied: bool,
    allow_new: bool = False,
) -> dict[str, Source]:
    """Returns {path: source} for every parameter that the files hold.

    Args:
      weights: {key as stored: info} of the published network.
      visor_weights: the same of VISOR parameters.
      expected: arrays or `jax.ShapeDtypeStruct`s of all parameters.
      keys: names of the published network's parameters.
      tied: see `is_tied`; a stored copy of the embeddings is passed over.
      allow_new: whether VISOR parameters may be absent, to be made new.

    Raises:
      ValueError: listing every key that is missing, unexpected, of another shape or of
        a dtype that cannot be read.
    """
    paths = flax.traverse_util.flatten_dict(expected, sep="/")
    problems: dict[str, list[str]] = {title: [] for title in _PROBLEMS}
    sources: dict[str, Source] = {}
    for key, info, found in _stored(weights, visor_weights, keys, tied=tied):
        if found is None or found.name not in paths:
            problems[_UNEXPECTED].append(f"{key} {info.shape}")
            continue
        sources[found.name] = Source(info, found.transform)
        shape = found.transform.torch_shape(paths[found.name].shape)
        if info.shape != shape:
            problems[_MISSHAPEN].append(f"{key} is {info.shape}, not {shape}")
        if info.dtype is None:
            problems[_UNREADABLE].append(f"{key} is {info.stored_as}")
    for path in paths.keys() - sources.keys():
        found = to_theirs(path, keys)
        if found is not None:
            shape = found.transform.torch_shape(paths[path].shape)
            problems[_MISSING].append(f"{published(found.name)} {shape}")
        elif not allow_new:
            problems[_MISSING_VISOR].append(f"{visor_key(path)} {paths[path].shape}")
    report = listing(problems)
    if report:
        raise ValueError(
            "The weights do not fit the network that config.json describes. Download "
            f"the folder again, or use the config.json that belongs to it.{report}"
        )
    return sources


def _stored(
    weights: Mapping[str, TensorInfo],
    visor_weights: Mapping[str, TensorInfo],
    keys: Sequence[KeyRule],
    *,
    tied: bool,
) -> Iterator[tuple[str, TensorInfo, Target | None]]:
    """Yields (key as stored, info, where it leads) of everything that is to be read."""
    for key, stored in canonical_keys(weights).items():
        if not (tied and key == _HEAD):
            yield stored, weights[stored], to_ours(key, keys)
    for key, info in visor_weights.items():
        path = key.replace(".", "/")
        published_too = to_theirs(path, keys) is not None
        yield key, info, None if published_too else Target(path, SAME)


def read_params(sources: Mapping[str, Source], expected: Params) -> Params:
    """Returns the parameters that have a source, in the dtypes and places expected.

    Args:
      sources: as `match` returns them.
      expected: `jax.ShapeDtypeStruct`s; a leaf without a sharding goes to the first
        device.
    """
    paths = flax.traverse_util.flatten_dict(expected, sep="/")
    # The largest first, while there is least in memory beside its copy.
    order = sorted(sources, key=lambda path: -sources[path].info.nbytes)
    read = {path: _place(sources[path], paths[path]) for path in order}
    in_order = {path: read[path] for path in paths if path in read}
    return flax.traverse_util.unflatten_dict(in_order, sep="/")


def _place(source: Source, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Returns the parameter where it is to be, read shard by shard.

    What is split along torch's first axis lies together in the file: so much is in this
    process's memory at once, and it is read once for all devices that need some of it.
    """
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    axis = source.transform.first_axis
    of_rows: dict[tuple[int, int], list[tuple[Any, tuple[slice, ...]]]] = {}
    for device, index in sharding.addressable_devices_indices_map(leaf.shape).items():
        start, stop, _ = index[axis].indices(leaf.shape[axis])
        beside = (*index[:axis], slice(None), *index[axis + 1 :])
        of_rows.setdefault((start, stop), []).append((device, beside))
    shards = []
    for rows, devices in of_rows.items():
        part = source.transform.apply(source.info.read(slice(*rows)))
        for device, beside in devices:
            shard = part[beside].astype(leaf.dtype, copy=False)
            shards.append(jax.device_put(np.ascontiguousarray(shard), device))
        # What is on its way to the devices is still in memory here.
        jax.block_until_ready(shards)
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, shards)
