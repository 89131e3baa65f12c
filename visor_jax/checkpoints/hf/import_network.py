"""From a Hugging Face folder to a network and its parameters, on the host."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  Gives NumPy the name "bfloat16".
import numpy as np

from visor_jax.budget import BudgetSet
from visor_jax.checkpoints.hf import hf_config, read_params, weights_folder
from visor_jax.checkpoints.hf.safetensors_file import TensorInfo
from visor_jax.checkpoints.tree_report import shapes_by_key
from visor_jax.layer_plan import LayerPlan
from visor_jax.models import variants
from visor_jax.models.config import VLMConfig
from visor_jax.models.parameters import new_parameters, parameter_shapes

Params = Any
# A kind of plan, its layers by kind, or None for the folder's own.
PlanChoice = str | Mapping[str, Sequence[int]] | None

PLANS = ("dense", "visor")
DTYPES = ("stored", "float32", "bfloat16")

_logger = logging.getLogger("visor_jax.convert")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImportedNetwork:
    """A network as a Hugging Face folder has it.

    new: paths of the parameters that the folder did not hold. budgets: names of the
    two extremes, which make sense before any training. source: the folder's
    config.json, in the form of transformers.
    """

    config: VLMConfig
    params: Params
    new: list[str]
    budgets: list[str]
    dtype: np.dtype
    source: dict[str, Any]


def import_network(
    folder: Path, *, plan: PlanChoice = None, dtype: str = "stored", seed: int = 0
) -> ImportedNetwork:
    """Returns the network of a folder of Hugging Face.

    Args:
      plan: "dense", "visor", {"cross": layers, "self_": layers}, or None for the
        folder's own (dense, unless this project exported a VISOR network).
      dtype: one of DTYPES; "stored" keeps the weights as they are, bit for bit.
      seed: of parameters that the folder does not hold.

    Raises:
      ValueError: if the folder is not a whole LLaVA-OneVision checkpoint, or the plan
        is impossible.
    """
    if dtype not in DTYPES:
        raise ValueError(f"{dtype=} is not one of {DTYPES}.")
    fields = hf_config.as_llava_onevision(hf_config.read_config_json(folder))
    weights = weights_folder.read_weights(folder)
    config, visor_weights = _network(folder, fields, weights, plan)
    target = _target_dtype({**weights, **visor_weights}, dtype)
    if target == jnp.bfloat16:
        config = config.replace(compute_dtype="bfloat16")
    params, new = _parameters(config, weights, visor_weights, target, seed)
    return ImportedNetwork(
        config=config,
        params=params,
        new=new,
        budgets=_budgets(config.plan),
        dtype=target,
        source=fields,
    )


def _network(
    folder: Path,
    fields: Mapping[str, Any],
    weights: Mapping[str, TensorInfo],
    plan: PlanChoice,
) -> tuple[VLMConfig, dict[str, TensorInfo]]:
    """Returns the network to make, and the stored VISOR parameters that it takes."""
    parsed = hf_config.parse(fields)
    tied = read_params.is_tied(weights, configured=parsed.tie_word_embeddings)
    dense = hf_config.to_vlm_config(parsed, tied=tied)
    own = weights_folder.read_visor_config(folder)
    if own is not None and plan is None:
        return own, weights_folder.read_visor_weights(folder)
    if own is not None:
        _logger.info("%s holds a VISOR network: only its dense part is taken", folder)
    return dense.replace(plan=_layer_plan(plan, dense.plan.num_layers)), {}


def _layer_plan(plan: PlanChoice, num_layers: int) -> LayerPlan:
    if plan in (None, "dense"):
        return LayerPlan.dense(num_layers)
    if plan == "visor":
        return variants.visor_plan(num_layers)
    if isinstance(plan, str):
        raise ValueError(f"{plan=} is not one of {PLANS}.")
    return LayerPlan.build(num_layers, **plan)


def _target_dtype(weights: Mapping[str, TensorInfo], name: str) -> np.dtype:
    if name != "stored":
        return np.dtype(name)
    found = {info.dtype for info in weights.values()}
    # float32 holds every float16 and bfloat16 exactly.
    return found.pop() if len(found) == 1 else np.dtype(np.float32)


def _budgets(plan: LayerPlan) -> list[str]:
    names = ["all"] if plan.is_dense else ["none", "all"]
    return list(dict.fromkeys(BudgetSet.parse([n], plan).names[0] for n in names))


def _parameters(
    config: VLMConfig,
    weights: Mapping[str, TensorInfo],
    visor_weights: Mapping[str, TensorInfo],
    dtype: np.dtype,
    seed: int,
) -> tuple[Params, list[str]]:
    """Returns all parameters, and the paths of those that the folder did not hold."""
    # What only training reads comes along where it is stored.
    reading = any("reading_heads" in key for key in visor_weights)
    shapes = parameter_shapes(config, reading=reading)
    expected = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)
    tied = config.decoder.tie_embeddings
    sources = read_params.match(weights, visor_weights, expected, tied=tied)
    new = sorted(shapes_by_key(expected).keys() - sources.keys())
    if new:
        _logger.info("%d new parameters: the adapters of CROSS layers", len(new))
    fresh = new_parameters(config, new, seed=seed)
    fresh = jax.tree.map(lambda x: x.astype(dtype), fresh)
    read = read_params.read_params(sources, expected)
    flat = flax.traverse_util.flatten_dict(read, sep="/")
    flat |= flax.traverse_util.flatten_dict(fresh, sep="/")
    return flax.traverse_util.unflatten_dict(flat, sep="/"), new
