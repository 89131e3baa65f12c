"""From the tensors of a Hugging Face folder to the parameters of the network here.

First the two sets of names are matched completely, then tensors are read one by one,
each straight into its dtype and onto its devices: the model is never twice in memory.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from visor_jax.checkpoints.hf.key_layouts import canonical_keys, published
from visor_jax.checkpoints.hf.key_map import SAME, Transform, to_ours, to_theirs
from visor_jax.checkpoints.hf.llava_ov_map import LLAVA_ONEVISION
from visor_jax.checkpoints.hf.safetensors_file import TensorInfo
from visor_jax.checkpoints.tree_report import listing

Params = Any

_HEAD, _EMBEDDING = "lm_head.weight", "language_model.embed_tokens.weight"

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Source:
    """The tensor that a parameter is read from, and the change of layout."""

    info: TensorInfo
    transform: Transform = SAME


def is_published(path: str) -> bool:
    """Returns whether LLaVA-OneVision has this parameter ("a/b/kernel")."""
    return to_theirs(path, LLAVA_ONEVISION) is not None


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
    return a.shape == b.shape and np.array_equal(a.read(), b.read())


def match(
    weights: Mapping[str, TensorInfo],
    visor_weights: Mapping[str, TensorInfo],
    expected: Params,
    *,
    tied: bool,
) -> dict[str, Source]:
    """Returns {path: source} for every parameter that the files hold.

    Args:
      weights: {key as stored: info} of the published network.
      visor_weights: the same of VISOR parameters; {} leaves those to be made new.
      expected: arrays or `jax.ShapeDtypeStruct`s of all parameters.
      tied: see `is_tied`; a stored copy of the embeddings is passed over.

    Raises:
      ValueError: listing every key that is missing, unexpected or of another shape.
    """
    paths = flax.traverse_util.flatten_dict(expected, sep="/")
    missing: list[str] = []
    unexpected: list[str] = []
    misshapen: list[str] = []
    sources: dict[str, Source] = {}

    def take(key: str, info: TensorInfo, path: str | None, transform: Transform):
        if path not in paths:
            unexpected.append(f"{key} {info.shape}")
            return
        sources[path] = Source(info, transform)
        shape = transform.torch_shape(paths[path].shape)
        if info.shape != shape:
            misshapen.append(f"{key} is {info.shape}, not {shape}")

    for key, stored in canonical_keys(weights).items():
        if tied and key == _HEAD:
            continue
        found = to_ours(key, LLAVA_ONEVISION)
        target = (None, SAME) if found is None else (found.name, found.transform)
        take(stored, weights[stored], *target)
    for key, info in visor_weights.items():
        path = key.replace(".", "/")
        take(key, info, None if is_published(path) else path, SAME)
    for path in paths.keys() - sources.keys():
        found = to_theirs(path, LLAVA_ONEVISION)
        if found is not None:
            shape = found.transform.torch_shape(paths[path].shape)
            missing.append(f"{published(found.name)} {shape}")
        elif visor_weights:
            missing.append(f"{visor_key(path)} {paths[path].shape}")
    _refuse(missing, unexpected, misshapen)
    return sources


def _refuse(missing: list[str], unexpected: list[str], misshapen: list[str]) -> None:
    sections = {
        "missing in the files": missing,
        "unexpected in the files": unexpected,
        "of another shape than config.json says": misshapen,
    }
    report = listing(sections)
    if report:
        raise ValueError(
            "The weights do not fit the network that config.json describes. Download "
            f"the folder again, or use the config.json that belongs to it.{report}"
        )


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
    array = source.transform.apply(source.info.read()).astype(leaf.dtype, copy=False)
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.make_array_from_callback(
        array.shape, sharding, lambda index: np.ascontiguousarray(array[index])
    )
