"""Opens what a path or an id stands for: a checkpoint of ours, or Hugging Face's."""

import dataclasses
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from visor_jax.budget import BudgetSet
from visor_jax.checkpoints import layout, workdir_files
from visor_jax.checkpoints.hf.backbones import backbone_of
from visor_jax.checkpoints.hf.hub import find_folder, is_hub_id
from visor_jax.checkpoints.hf.import_network import find_network, read_network
from visor_jax.checkpoints.hf.weights import weights_folder
from visor_jax.checkpoints.stored_network import (
    StoredNetwork,
    network_alone,
    read_newest,
)
from visor_jax.data.pages.forms import vocabulary_of
from visor_jax.data.pages.processor import page_processor
from visor_jax.data.pages.tokenizer import page_tokenizer
from visor_jax.data.prompts.chat_template import check_template
from visor_jax.data.prompts.processor import Processor
from visor_jax.data.prompts.prompt_tokens import check_special_tokens
from visor_jax.data.prompts.tokenizer import load_tokenizer
from visor_jax.inference.loading.network import Network
from visor_jax.inference.loading.reads_pages import pages_read, reads_pages
from visor_jax.inference.routing.cascade_file import CascadeFile
from visor_jax.inference.routing.scorer_file import ScorerFile
from visor_jax.models.config import COMPUTE_DTYPES, VLMConfig
from visor_jax.models.decoder.token_reducer import TokenReducer
from visor_jax.runtime.arguments import shown
from visor_jax.sharding.mesh import MeshSettings, as_mesh, check_heads
from visor_jax.token_reduction.trained import asked_reducer, reducer_for

_logger = logging.getLogger(__name__)


def open_network(
    path_or_id: epath.PathLike,
    *,
    dtype: str | None = None,
    template: str | None = None,
    special_tokens: str = "plain",
    revision: str | None = None,
    mesh: MeshSettings | jax.sharding.Mesh | None = None,
    reduce: str | TokenReducer | None = None,
) -> Network:
    """Returns the network of a path or id. See `load`."""
    _check_names(path_or_id, dtype, template, revision)
    check_special_tokens(special_tokens)
    mesh = None if mesh is None else as_mesh(mesh)
    how = _How(dtype, template, special_tokens, mesh, asked_reducer(reduce))
    if _is_hugging_face(path_or_id):
        opened = _from_hugging_face(find_folder(path_or_id, revision=revision), how)
    else:
        opened = read_newest(path_or_id, lambda stored: _from_checkpoint(stored, how))
    vocabulary = opened.config.decoder.vocab_size
    if len(opened.processor.tokenizer) > vocabulary:
        raise ValueError(
            f"{path_or_id} has {vocabulary} output tokens but its tokenizer "
            f"{len(opened.processor.tokenizer)}: they do not belong together."
        )
    return opened


def _check_names(path_or_id: Any, dtype: Any, template: Any, revision: Any) -> None:
    """Raises ValueError unless these are what they are called."""
    if not isinstance(path_or_id, str | os.PathLike) or not os.fspath(path_or_id):
        raise ValueError(
            f"path_or_id={shown(path_or_id)} is neither a path nor an id: name the "
            "folder of a run or a checkpoint, or 'owner/name' on the Hub."
        )
    if dtype is not None and (
        not isinstance(dtype, str) or dtype not in COMPUTE_DTYPES
    ):
        raise ValueError(f"dtype={shown(dtype)} is not one of {COMPUTE_DTYPES}.")
    if template is not None:
        check_template(template)
    if revision is not None and not isinstance(revision, str):
        raise ValueError(f"revision={shown(revision)} is no branch, tag or commit.")


@dataclasses.dataclass(frozen=True)
class _How:
    """What the caller asks for; None leaves it to the checkpoint."""

    dtype: str | None
    template: str | None
    special_tokens: str
    mesh: jax.sharding.Mesh | None
    reducer: TokenReducer | None

    def dtype_of(self, stored: Iterable[np.dtype]) -> str | None:
        """Returns the dtype of parameters and computation, None to keep both.

        Nothing computes in float16, so every program would convert such weights again
        each time it runs, and hold both copies: they are cast while they are read.
        """
        if self.dtype is None and np.dtype(np.float16) in set(stored):
            return "float32" if jax.default_backend() == "cpu" else "bfloat16"
        return self.dtype


def _is_hugging_face(path_or_id: epath.PathLike) -> bool:
    path = layout.absolute(path_or_id)
    if not path.exists():
        return is_hub_id(os.fspath(path_or_id))
    if not path.is_dir() or (path / layout.CHECKPOINTS).exists():
        return False
    # Half downloads and pickled weights count: what they lack is then said.
    return any(path.glob("*.safetensors*")) or _describes_a_model(path)


def _describes_a_model(folder: epath.Path) -> bool:
    """Returns whether its config.json is Hugging Face's; a run has one as well."""
    file = folder / weights_folder.CONFIG
    if not file.exists():
        return False
    try:
        fields = json.loads(file.read_text())
    except ValueError:
        # Runs write theirs in one step: this one was cut short by a download.
        return True
    return bool({"model_type", "architectures"} & set(fields))


def _from_hugging_face(folder: Path, how: _How) -> Network:
    # The cheap things first: errors in them should not wait for the weights.
    found = find_network(folder)
    found = dataclasses.replace(found, shapes=network_alone(found.shapes))
    _check_heads(found.config, how.mesh)
    reducer = reducer_for(how.reducer, found.config)
    processor = found.backbone.processor(
        found.config,
        folder,
        source=found.source,
        template=how.template,
        special_tokens=how.special_tokens,
    )
    dtype = how.dtype_of([found.dtype])
    if dtype is None and found.dtype == jnp.bfloat16:
        dtype = "bfloat16"
    target = found.dtype if dtype is None else np.dtype(dtype)
    return Network(
        config=_computing_in(found.config, dtype),
        params=read_network(found, dtype=target, mesh=how.mesh),
        budgets=BudgetSet.parse(found.budgets, found.config.plan),
        processor=processor,
        metadata={"from_hf": folder.as_posix(), "new_parameters": found.new},
        reducer=reducer,
    )


def _from_checkpoint(stored: StoredNetwork, how: _How) -> Network:
    # What is stored is compared with the network before anything else is looked for.
    dtype = how.dtype_of(leaf.dtype for leaf in jax.tree.leaves(stored.shapes))
    _check_heads(stored.config, how.mesh)
    processor, reducer = _reader(stored, how), reducer_for(how.reducer, stored.config)
    scorer_file = ScorerFile.beside(stored.step)
    return Network(
        config=_computing_in(stored.config, dtype),
        params=stored.read_params(dtype=dtype, mesh=how.mesh),
        budgets=stored.budgets,
        processor=processor,
        metadata=stored.metadata,
        policy=stored.read_policy(mesh=how.mesh),
        reducer=reducer,
        cascade_file=CascadeFile.beside(stored.step),
        scorer_file=scorer_file,
        scorer=scorer_file.read(stored.config),
    )


def _check_heads(config: VLMConfig, mesh: jax.sharding.Mesh | None) -> None:
    """Raises ValueError for query heads that the mesh does not divide.

    Fewer key/value heads than that stay whole on every device.
    """
    if mesh is None:
        return
    check_heads(config.decoder.num_heads, mesh)
    kv_heads, tensor = config.decoder.num_kv_heads, mesh.shape["tensor"]
    if kv_heads % tensor:
        _logger.info(
            "%d key/value heads do not split over tensor %d: every device keeps all",
            *(kv_heads, tensor),
        )


def _computing_in(config: VLMConfig, dtype: str | None) -> VLMConfig:
    return config if dtype is None else config.replace(compute_dtype=dtype)


def _reader(stored: StoredNetwork, how: _How) -> Processor:
    with workdir_files.local_processing_folder(stored.step) as folder:
        if reads_pages(stored.config, stored.metadata):
            kind = pages_read(stored.metadata)
            tokenizer = (
                load_tokenizer(folder)
                if folder.is_dir()
                else page_tokenizer(vocabulary_of(kind))
            )
            return page_processor(tokenizer, kind)
        processor = backbone_of(stored.source).processor
        return processor(
            stored.config,
            folder,
            source=stored.source,
            template=how.template,
            special_tokens=how.special_tokens,
        )
