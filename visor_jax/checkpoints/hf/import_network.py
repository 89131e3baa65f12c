"""From a Hugging Face folder to a network and its parameters.

found = find_network(folder)                 # reads tables of contents alone
params = read_network(found, dtype=..., mesh=...)
"""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  Gives NumPy the name "bfloat16".
import numpy as np

from visor_jax.checkpoints.hf.backbones import Backbone, as_transformers, backbone_of
from visor_jax.checkpoints.hf.import_options import DTYPES, PLANS, PlanChoice
from visor_jax.checkpoints.hf.read_config import read_config_json
from visor_jax.checkpoints.hf.weights import read_params, weights_folder
from visor_jax.checkpoints.hf.weights.read_params import Source
from visor_jax.checkpoints.hf.weights.safetensors_file import TensorInfo
from visor_jax.checkpoints.placement import placed
from visor_jax.layer_plan import LayerPlan
from visor_jax.models import variants
from visor_jax.models.adapters import (
    OWN,
    RANDOM,
    SHAPES,
    own_sources,
    with_adapters,
)
from visor_jax.models.config import VLMConfig
from visor_jax.models.parameters import new_parameters, parameter_shapes

Params = Any
_logger = logging.getLogger("visor_jax.convert")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FoundNetwork:
    """A network as a Hugging Face folder holds it, before any tensor is read.

    shapes: of all parameters. sources: {path: tensor} of those that the folder holds.
    budgets: names, in class order; of a network that this project did not export, the
    two extremes, which make sense before any training. source: the folder's
    config.json, in the form of transformers. backbone: its family.
    """

    backbone: Backbone
    config: VLMConfig
    shapes: Params
    sources: dict[str, Source]
    budgets: tuple[str, ...]
    source: dict[str, Any]

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """The dtype that holds every stored parameter bit for bit."""
        found = {source.info.dtype for source in self.sources.values()}
        # float32 holds every float16 and bfloat16 exactly.
        return found.pop() if len(found) == 1 else np.dtype(np.float32)

    @functools.cached_property
    def new(self) -> list[str]:
        """Paths of the parameters that the folder does not hold."""
        return sorted(_flat(self.shapes).keys() - self.sources.keys())


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImportedNetwork:
    """A network with its parameters; `found` says where both come from."""

    config: VLMConfig
    params: Params
    dtype: np.dtype
    found: FoundNetwork


def import_network(
    folder: Path,
    *,
    plan: PlanChoice = None,
    adapters: str = SHAPES[0],
    adapter_init: str = RANDOM,
    dtype: str = "stored",
    seed: int = 0,
) -> ImportedNetwork:
    """Returns the network of a folder of Hugging Face, on the first device.

    Args:
      plan, adapters, adapter_init: as for `find_network`.
      dtype: one of DTYPES; "stored" keeps the weights as they are, bit for bit.
      seed: of parameters that the folder does not hold.

    Raises:
      ValueError: if the folder is not a whole LLaVA-OneVision checkpoint, or the plan
        is impossible.
    """
    if dtype not in DTYPES:
        raise ValueError(f"{dtype=} is not one of {DTYPES}.")
    found = find_network(
        folder, plan=plan, adapters=adapters, adapter_init=adapter_init
    )
    target = found.dtype if dtype == "stored" else np.dtype(dtype)
    config = found.config
    if target == jnp.bfloat16:
        config = config.replace(compute_dtype="bfloat16")
    params = read_network(found, dtype=target, seed=seed)
    return ImportedNetwork(config=config, params=params, dtype=target, found=found)


def find_network(
    folder: Path,
    *,
    plan: PlanChoice = None,
    adapters: str = SHAPES[0],
    adapter_init: str = RANDOM,
) -> FoundNetwork:
    """Returns what a folder of Hugging Face holds; it is checked completely.

    Args:
      plan: one of PLANS, {"cross": layers, "self_": layers}, or None for the
        folder's own (dense, unless this project exported a VISOR network).
      adapters, adapter_init: of new adapters, see `visor_jax.models.adapters`.

    Raises:
      ValueError: as `import_network`.
    """
    fields = as_transformers(read_config_json(folder))
    backbone = backbone_of(fields)
    weights = weights_folder.read_weights(folder)
    own = weights_folder.read_visor_description(folder)
    if own is not None and plan is None:
        config, budgets = own.config, own.budgets
        visor_weights = weights_folder.read_visor_weights(folder)
    else:
        if own is not None:
            _logger.info("%s holds a VISOR network: its dense part is taken", folder)
        dense = _tied_as_stored(backbone.read_config(fields), weights)
        planned = dense.replace(plan=_layer_plan(plan, dense.plan.num_layers))
        config = with_adapters(planned, adapters, adapter_init)
        budgets, visor_weights = weights_folder.extreme_budgets(config.plan), {}
        if plan == "read":
            budgets = weights_folder.reading_budgets(config.plan)
    # What only training reads comes along where it is stored.
    reading = any("reading_heads" in key for key in visor_weights)
    shapes = parameter_shapes(config, reading=reading)
    sources = read_params.match(
        weights,
        visor_weights,
        shapes,
        keys=backbone.keys,
        tied=config.decoder.tie_embeddings,
        # A network that has been exported is whole; any other gets new adapters.
        allow_new=own is None or plan is not None,
    )
    if adapter_init == OWN:
        copied = own_sources(_flat(shapes).keys() - sources.keys())
        sources |= {path: sources[source] for path, source in copied.items()}
    return FoundNetwork(
        backbone=backbone,
        config=config,
        shapes=shapes,
        sources=sources,
        budgets=budgets,
        source=fields,
    )


def _tied_as_stored(config: VLMConfig, weights: Mapping[str, TensorInfo]) -> VLMConfig:
    configured = config.decoder.tie_embeddings
    tied = read_params.is_tied(weights, configured=configured)
    decoder = dataclasses.replace(config.decoder, tie_embeddings=tied)
    return config.replace(decoder=decoder)


def read_network(
    found: FoundNetwork,
    *,
    dtype: np.dtype,
    seed: int = 0,
    mesh: jax.sharding.Mesh | None = None,
) -> Params:
    """Returns the parameters in `found.shapes`, those that the folder lacks made new.

    Args:
      dtype: of all of them; each tensor is cast while it is read.
      seed: of new ones.
      mesh: to split them over; None for the first device.

    Raises:
      ValueError: if a parameter cannot be split over the mesh.
    """
    expected = _flat(placed(found.shapes, dtype=dtype, mesh=mesh))
    sources = {path: s for path, s in found.sources.items() if path in expected}
    if found.new:
        _logger.info("%d new parameters: the adapters of CROSS layers", len(found.new))
    fresh = _flat(new_parameters(found.config, found.new, seed=seed))
    read = _flat(read_params.read_params(sources, _nested(expected)))
    read |= {
        path: jax.device_put(x.astype(dtype), expected[path].sharding)
        for path, x in fresh.items()
    }
    return _nested(read)


def _layer_plan(plan: PlanChoice, num_layers: int) -> LayerPlan:
    if plan in (None, "dense", "read"):
        return LayerPlan.dense(num_layers)
    if plan == "visor":
        return variants.visor_plan(num_layers)
    if isinstance(plan, str):
        raise ValueError(f"{plan=} is not one of {PLANS}.")
    return LayerPlan.build(num_layers, **plan)


def _flat(tree: Params) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def _nested(flat: Mapping[str, Any]) -> Params:
    return flax.traverse_util.unflatten_dict(flat, sep="/")
