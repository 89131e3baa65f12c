"""The weights of a Hugging Face folder: one safetensors file, or shards and an index.

Nothing is read here but tables of contents. The VISOR parameters of a folder that this
project exported lie in a file of their own, which is not part of the index.
"""

import dataclasses
import json
import logging
import os
from pathlib import Path

from visor_jax.budget import Budget, BudgetSet
from visor_jax.checkpoints.hf.weights.safetensors_file import TensorInfo, read_header
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.config import VLMConfig
from visor_jax.runtime import atomic_write
from visor_jax.runtime.lfs_pointer import check_not_pointer

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
VISOR = "visor.safetensors"
VISOR_CONFIG = "visor_config.json"
CONFIG = "config.json"

_logger = logging.getLogger(__name__)


def read_weights(folder: str | os.PathLike) -> dict[str, TensorInfo]:
    """Returns {key as stored: info} of the folder's tensors, over all shards.

    A folder with a single file and an index has two answers; transformers takes the
    single file, and so does this, with a warning.

    Raises:
      ValueError: if the folder holds no safetensors weights, or if a shard is absent,
        cut short or not what the index says it is.
    """
    folder = Path(folder)
    if (folder / SINGLE).is_file():
        if (folder / INDEX).is_file():
            _logger.warning(
                "%s holds %s and %s: the single file is read, as by transformers, and "
                "the shards of the index are not; remove what is out of date",
                folder,
                SINGLE,
                INDEX,
            )
        return read_header(folder / SINGLE)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    raise ValueError(_no_weights(folder))


def extreme_budgets(plan: LayerPlan) -> tuple[str, ...]:
    """Returns the names that a network has whose folder describes no others."""
    names = ["all"] if plan.is_dense else ["none", "all"]
    return tuple(
        dict.fromkeys(BudgetSet.parse([name], plan).names[0] for name in names)
    )


def reading_budgets(plan: LayerPlan) -> tuple[str, ...]:
    """Returns the names of budgets that a dense network has without any training.

    All on; then the first three quarters, half, a quarter and none of the layers, while
    text reads the image in those behind: what the image still gains there, deeper
    layers use least (ShortV, arXiv 2504.00502).
    """
    layers = plan.self_layers
    counts = [len(layers) * quarters // 4 for quarters in (4, 3, 2, 1, 0)]
    names = (Budget(layers[:count], layers[count:]).name for count in counts)
    return tuple(dict.fromkeys(names))


def read_visor_weights(folder: str | os.PathLike) -> dict[str, TensorInfo]:
    """Returns {key: info} of the folder's VISOR parameters, {} if it has none."""
    file = Path(folder) / VISOR
    return read_header(file) if file.is_file() else {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisorDescription:
    """What an exported network is beside its config.json.

    budgets: names, in class order.
    """

    config: VLMConfig
    budgets: tuple[str, ...]


def write_visor_description(
    folder: str | os.PathLike, description: VisorDescription
) -> None:
    """Writes what `read_visor_description` reads."""
    content = {
        "model": description.config.to_dict(),
        "budgets": list(description.budgets),
    }
    atomic_write.write_json(Path(folder) / VISOR_CONFIG, content)


def read_visor_description(folder: str | os.PathLike) -> VisorDescription | None:
    """Returns what the folder's network is, None if it is an ordinary one.

    Raises:
      ValueError: if the description is damaged, or absent beside VISOR parameters.
    """
    file = Path(folder) / VISOR_CONFIG
    if not file.is_file():
        if (Path(folder) / VISOR).is_file():
            raise ValueError(
                f"{folder} holds {VISOR} but no {VISOR_CONFIG}: the download was not "
                "finished; download the folder again."
            )
        return None
    check_not_pointer(file)
    try:
        content = json.loads(file.read_text())
        config = VLMConfig.from_dict(content["model"])
        budgets = BudgetSet.parse(content["budgets"], config.plan)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    return VisorDescription(config=config, budgets=budgets.names)


def _no_weights(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is not a folder."
    found = sorted(p.name for p in folder.iterdir())
    if any(name.endswith(".safetensors") and name != VISOR for name in found):
        return (
            f"{folder} holds safetensors files but neither {SINGLE} nor {INDEX}: the "
            "download was not finished; download the folder again."
        )
    if any(name.endswith((".bin", ".pt", ".pth")) for name in found):
        return (
            f"{folder} holds pickled weights only. They can run code, so only "
            "safetensors are loaded: save the model again with save_pretrained."
        )
    if CONFIG in found:
        return (
            f"{folder} holds {CONFIG} but neither {SINGLE} nor {INDEX}: the download "
            "was not finished; download the folder again."
        )
    return (
        f"{folder} is not a checkpoint of Hugging Face: it holds neither {SINGLE} nor "
        f"{INDEX}."
    )


def _read_shards(folder: Path) -> dict[str, TensorInfo]:
    index = folder / INDEX
    check_not_pointer(index)
    try:
        weight_map = dict(json.loads(index.read_text())["weight_map"])
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{index} is damaged ({error}): download it again.") from error
    files = sorted(set(weight_map.values()))
    # A name with a path in it could point anywhere on this machine.
    odd = [f for f in files if Path(f).name != f or not f.endswith(".safetensors")]
    if odd:
        raise ValueError(f"{index} names {odd}, which are no safetensors files of it.")
    absent = [f for f in files if not (folder / f).is_file()]
    if absent:
        raise ValueError(
            f"{folder} lacks {len(absent)} of the {len(files)} files that its index "
            f"names: {', '.join(absent)}. Finish the download."
        )
    weights: dict[str, TensorInfo] = {}
    for file in files:
        found = read_header(folder / file)
        listed = {key for key, owner in weight_map.items() if owner == file}
        if listed != found.keys():
            differing = sorted(listed ^ found.keys())
            raise ValueError(
                f"{folder / file} does not hold the keys that {INDEX} says it does; "
                f"differing: {', '.join(differing)}. Download both again."
            )
        weights |= found
    return weights
