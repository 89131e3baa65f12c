"""Opens what a path or an id stands for: a checkpoint of ours, or Hugging Face's."""

import dataclasses
import functools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import flax.traverse_util
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
from visor_jax.checkpoints.placement import placed
from visor_jax.checkpoints.restore import (
    check_fits,
    list_arrays,
    newest_readable,
    read_part,
)
from visor_jax.data.pages.packing import PATCH
from visor_jax.data.pages.pool.drawing import IMAGE_SIZE
from visor_jax.data.pages.processor import page_reader
from visor_jax.data.pages.tokenizer import page_tokenizer
from visor_jax.data.prompts.processor import Reader
from visor_jax.data.prompts.tokenizer import load_tokenizer
from visor_jax.models.config import COMPUTE_DTYPES, VLMConfig
from visor_jax.models.parameters import parameter_shapes
from visor_jax.policy.network import PARAMS as PARAMS_OF_POLICY
from visor_jax.policy.network import Policy, PolicyConfig, new_policy
from visor_jax.sharding.mesh import MeshSettings, as_mesh

Params = Any

# Heads of the auxiliary reading loss, which only training uses, and the policy, which
# stands beside the network.
_BESIDE_THE_NETWORK = ("reading_heads", PARAMS_OF_POLICY)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OpenedNetwork:
    """What answering needs; the fields are those of `VisorModel`."""

    config: VLMConfig
    params: Params
    budgets: BudgetSet
    reader: Reader
    metadata: dict[str, Any]
    policy: Policy | None = None


def open_network(
    path_or_id: epath.PathLike,
    *,
    dtype: str | None = None,
    template: str | None = None,
    revision: str | None = None,
    mesh: MeshSettings | jax.sharding.Mesh | None = None,
) -> OpenedNetwork:
    """Returns the network of a path or id. See `load`."""
    if dtype is not None and dtype not in COMPUTE_DTYPES:
        raise ValueError(f"{dtype=} is not one of {COMPUTE_DTYPES}.")
    how = _How(dtype, template, None if mesh is None else as_mesh(mesh))
    if _is_hugging_face(path_or_id):
        opened = _from_hugging_face(find_folder(path_or_id, revision=revision), how)
    else:
        opened = newest_readable(path_or_id, lambda step: _from_step(step, how))
    vocabulary = opened.config.decoder.vocab_size
    if len(opened.reader.tokenizer) > vocabulary:
        raise ValueError(
            f"{path_or_id} has {vocabulary} output tokens but its tokenizer "
            f"{len(opened.reader.tokenizer)}: they do not belong together."
        )
    return opened


@dataclasses.dataclass(frozen=True)
class _How:
    """What the caller asks for; None leaves it to the checkpoint."""

    dtype: str | None
    template: str | None
    mesh: jax.sharding.Mesh | None

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


def _from_hugging_face(folder: Path, how: _How) -> OpenedNetwork:
    # The cheap things first: errors in them should not wait for the weights.
    found = find_network(folder)
    found = dataclasses.replace(found, shapes=_for_answers(found.shapes))
    reader = found.backbone.processor(
        found.config, folder, source=found.source, template=how.template
    )
    dtype = how.dtype_of([found.dtype])
    if dtype is None and found.dtype == jnp.bfloat16:
        dtype = "bfloat16"
    target = found.dtype if dtype is None else np.dtype(dtype)
    return OpenedNetwork(
        config=_computing_in(found.config, dtype),
        params=read_network(found, dtype=target, mesh=how.mesh),
        budgets=BudgetSet.parse(found.budgets, found.config.plan),
        reader=reader,
        metadata={"from_hf": folder.as_posix(), "new_parameters": found.new},
    )


def _from_step(step: epath.Path, how: _How) -> OpenedNetwork:
    metadata = layout.read_step_metadata(step)
    config = _config(metadata, step)
    listed = list_arrays(step, layout.PARAMS)
    stored = _for_answers(flax.traverse_util.unflatten_dict(listed, sep="/"))
    check_fits(step, layout.PARAMS, stored, parameter_shapes(config))
    reader = _reader(step, config, metadata, how.template)
    dtype = how.dtype_of(leaf.dtype for leaf in jax.tree.leaves(stored))
    # Each array straight into its dtype and place: there is never a second copy.
    expected = placed(stored, dtype=dtype and np.dtype(dtype), mesh=how.mesh)
    budgets = BudgetSet.parse(metadata["budgets"], config.plan)
    return OpenedNetwork(
        config=_computing_in(config, dtype),
        params=read_part(step, layout.PARAMS, expected),
        budgets=budgets,
        reader=reader,
        metadata=metadata,
        policy=_policy(step, metadata, config, budgets, how.mesh),
    )


def _policy(
    step: epath.Path,
    metadata: dict[str, Any],
    config: VLMConfig,
    budgets: BudgetSet,
    mesh: jax.sharding.Mesh | None,
) -> Policy | None:
    """Returns the policy that was trained for the network, None if there is none."""
    described = metadata.get("policy")
    if described is None:
        return None
    policy = PolicyConfig.from_dict(described["config"])
    new = functools.partial(new_policy, policy, config.decoder.width)
    shapes = placed({PARAMS_OF_POLICY: jax.eval_shape(new, jax.random.key(0))})
    if mesh is not None:
        # Small: every device holds all of it.
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shapes
        )
    params = read_part(step, layout.PARAMS, shapes)[PARAMS_OF_POLICY]
    return Policy.of(described, params, budgets.names)


def _computing_in(config: VLMConfig, dtype: str | None) -> VLMConfig:
    return config if dtype is None else config.replace(compute_dtype=dtype)


def _config(metadata: dict[str, Any], path: epath.Path) -> VLMConfig:
    try:
        return VLMConfig.from_dict(metadata["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not describe a network of this version: {error}"
        ) from error


def _for_answers(params: Params) -> Params:
    """Returns the parameters, or their shapes, that answering needs."""
    return {
        k: part for k, part in params.items() if not k.startswith(_BESIDE_THE_NETWORK)
    }


def _reader(
    step: epath.Path,
    config: VLMConfig,
    metadata: dict[str, Any],
    template: str | None,
) -> Reader:
    vision = config.vision
    reads_pages = (vision.image_size, vision.patch_size) == (IMAGE_SIZE, PATCH)
    # Only networks that began with imported weights have one.
    source = (metadata.get("source") or {}).get("config")
    with workdir_files.local_processing_folder(step) as folder:
        if reads_pages and not config.image_newline:
            saved = folder.is_dir()
            return page_reader(load_tokenizer(folder) if saved else page_tokenizer())
        processor = backbone_of(source).processor
        return processor(config, folder, source=source, template=template)
