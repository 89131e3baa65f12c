"""Opens what a path or an id stands for: a checkpoint of ours, or Hugging Face's."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
from etils import epath

from visor_jax.budget import BudgetSet
from visor_jax.checkpoints import workdir_files
from visor_jax.checkpoints.hf import hf_config, weights_folder
from visor_jax.checkpoints.hf.hub import find_folder, is_hub_id
from visor_jax.checkpoints.hf.import_network import import_network
from visor_jax.checkpoints.restore import check_fits, load_checkpoint, read_metadata
from visor_jax.data.pages.drawing import IMAGE_SIZE
from visor_jax.data.pages.packing import PATCH
from visor_jax.data.tokenizer import load_tokenizer, page_tokenizer
from visor_jax.inference.reader import Reader, chat_reader, page_reader
from visor_jax.models.config import COMPUTE_DTYPES, VLMConfig
from visor_jax.models.parameters import parameter_shapes
from visor_jax.policy.network import PARAMS as PARAMS_OF_POLICY

Params = Any

# Heads of the auxiliary reading loss, which only training uses, and the policy, which
# stands beside the network.
_BESIDE_THE_NETWORK = ("reading_heads", PARAMS_OF_POLICY)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OpenedNetwork:
    """What answering needs; the fields are those of `visor_jax.library.VisorModel`."""

    config: VLMConfig
    params: Params
    budgets: BudgetSet
    reader: Reader
    metadata: dict[str, Any]


def open_network(
    path_or_id: epath.PathLike,
    *,
    dtype: str | None = None,
    template: str | None = None,
    revision: str | None = None,
) -> OpenedNetwork:
    """Returns the network of a path or id. See `visor_jax.library.load`."""
    if dtype is not None and dtype not in COMPUTE_DTYPES:
        raise ValueError(f"{dtype=} is not one of {COMPUTE_DTYPES}.")
    if _is_hugging_face(path_or_id):
        folder = find_folder(path_or_id, revision=revision)
        opened = _from_hugging_face(folder, dtype or "stored", template)
    else:
        opened = _from_checkpoint(path_or_id, dtype, template)
    vocabulary = opened.config.decoder.vocab_size
    if len(opened.reader.tokenizer) > vocabulary:
        raise ValueError(
            f"{path_or_id} has {vocabulary} output tokens but its tokenizer "
            f"{len(opened.reader.tokenizer)}: they do not belong together."
        )
    return opened


def _is_hugging_face(path_or_id: epath.PathLike) -> bool:
    path = epath.Path(path_or_id)
    if path.exists():
        # A run has a config.json too, but no weights beside it.
        return (path / weights_folder.CONFIG).exists() and any(
            path.glob("*.safetensors*")
        )
    return is_hub_id(os.fspath(path_or_id))


def _from_hugging_face(folder: Path, dtype: str, template: str | None) -> OpenedNetwork:
    # The cheap things first: errors in them should not wait for the weights.
    fields = hf_config.as_llava_onevision(hf_config.read_config_json(folder))
    parsed = hf_config.parse(fields)
    config = hf_config.to_vlm_config(parsed, tied=parsed.tie_word_embeddings)
    reader = chat_reader(config, folder, source=fields, template=template)
    network = import_network(folder, dtype=dtype)
    config = network.config
    if dtype != "stored":
        config = config.replace(compute_dtype=dtype)
    return OpenedNetwork(
        config=config,
        params=_for_answers(network.params),
        budgets=BudgetSet.parse(network.budgets, config.plan),
        reader=reader,
        metadata={"from_hf": folder.as_posix(), "new_parameters": network.new},
    )


def _from_checkpoint(
    path: epath.PathLike, dtype: str | None, template: str | None
) -> OpenedNetwork:
    metadata = read_metadata(path)
    config = _config(metadata, path)
    loaded = load_checkpoint(path)
    directory = epath.Path(loaded.directory)
    params = _for_answers(loaded.params)
    check_fits(directory, "params", params, parameter_shapes(config))
    if dtype is not None:
        config = config.replace(compute_dtype=dtype)
        params = jax.tree.map(lambda x: x.astype(dtype), params)
    return OpenedNetwork(
        config=config,
        params=params,
        budgets=BudgetSet.parse(loaded.metadata["budgets"], config.plan),
        reader=_reader(directory, config, metadata, template),
        metadata=loaded.metadata,
    )


def _config(metadata: dict[str, Any], path: epath.PathLike) -> VLMConfig:
    try:
        return VLMConfig.from_dict(metadata["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not describe a network of this version: {error}"
        ) from error


def _for_answers(params: Params) -> Params:
    return {
        k: part for k, part in params.items() if not k.startswith(_BESIDE_THE_NETWORK)
    }


def _reader(
    step: epath.Path,
    config: VLMConfig,
    metadata: dict[str, Any],
    template: str | None,
) -> Reader:
    folder, vision = workdir_files.processing_folder(step), config.vision
    reads_pages = (vision.image_size, vision.patch_size) == (IMAGE_SIZE, PATCH)
    if reads_pages and not config.image_newline:
        saved = folder.is_dir()
        return page_reader(load_tokenizer(folder) if saved else page_tokenizer())
    source = metadata.get("source", {}).get("config")
    return chat_reader(config, folder, source=source, template=template)
