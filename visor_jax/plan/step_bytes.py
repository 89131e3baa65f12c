"""The bytes of a training step on one device, and the moment when they are most.

The state is counted exactly, from the shapes and shardings of its arrays; activations
come from `visor_jax.plan.activations`. Four moments are candidates for the peak:

    logits    everything kept; the logits; the output table, gathered, and its gradient
    decoder   going back: less and less is kept, more and more gradients are there
    tower     the same in the vision tower
    update    all gradients, before the norm by which they are clipped is known

A parameter that is split over devices is gathered where it is used, so whole parameters
and whole gradients exist of one layer at a time.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from visor_jax.budget import Budget
from visor_jax.models.config import VLMConfig
from visor_jax.plan import activations
from visor_jax.plan.activations import BYTES, DeviceBatch

_LAYER = re.compile(r"^(language_model|vision_tower/encoder)/layers_(\d+)/")
_OUTPUT_TABLE = ("lm_head/kernel", "language_model/embed_tokens/embedding")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModuleBytes:
    """Of the parameters of one layer, block or remainder, in float32.

    held: on a device. whole: gathered over fsdp. gradients: of those that train, held.
    """

    held: int = 0
    whole: int = 0
    gradients: int = 0

    def __add__(self, other: "ModuleBytes") -> "ModuleBytes":
        return ModuleBytes(
            held=self.held + other.held,
            whole=self.whole + other.whole,
            gradients=self.gradients + other.gradients,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepBytes:
    """One device's memory.

    kept: {"tower", "projector", "decoder"}: from the forward to the backward pass.
    logits: all copies. moments: {moment: what there is beside state and batch}.
    """

    parameters: int
    optimizer: int
    batch: int
    gradients: int
    kept: Mapping[str, int]
    logits: int
    moments: Mapping[str, int]

    @property
    def state(self) -> int:
        """What is there between two steps."""
        return self.parameters + self.optimizer

    @property
    def peak(self) -> str:
        """The moment when memory is fullest."""
        return max(self.moments, key=self.moments.__getitem__)

    @property
    def total(self) -> int:
        return self.state + self.batch + self.moments[self.peak]


def module_bytes(
    params: Mapping[str, Any], is_trained: Mapping[str, bool]
) -> dict[str, ModuleBytes]:
    """Returns {"language_model/layers_3": its bytes, ..., "rest": of all others}.

    Args:
      params: {"a/b/kernel": array, abstract or not, with its sharding}.
      is_trained: with the same paths.
    """
    modules: dict[str, ModuleBytes] = {}
    for path, x in params.items():
        found = _LAYER.match(path)
        name = f"{found[1]}/layers_{found[2]}" if found else "rest"
        held = x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
        one = ModuleBytes(
            held=held,
            whole=_gathered(x),
            gradients=held if is_trained[path] else 0,
        )
        modules[name] = modules.get(name, ModuleBytes()) + one
    return modules


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stack:
    """Layers or blocks, first to last: parameters, what each keeps, and works on."""

    modules: list[ModuleBytes]
    kept: list[int]
    worked: list[int]

    @property
    def gradients(self) -> int:
        return sum(module.gradients for module in self.modules)

    def most_going_back(self, config: VLMConfig) -> int:
        """Returns the most that there is at once in the backward pass through it."""
        return max(
            sum(self.kept[: i + 1])
            + sum(module.gradients for module in self.modules[i:])
            + self.worked[i]
            + _in_use(config, self.modules[i])
            for i in range(len(self.modules))
        )


def step_bytes(
    config: VLMConfig,
    batch: DeviceBatch,
    budget: Budget | None,
    *,
    params: Mapping[str, Any],
    is_trained: Mapping[str, bool],
    optimizer: int,
    batch_bytes: int,
    tensor: int,
    in_parts: bool = False,
) -> StepBytes:
    """Returns the bytes of a step.

    Args:
      budget: of a program made for it alone; None for traced gates (every budget).
      params, is_trained: see `module_bytes`.
      optimizer: bytes on a device of everything in the state but the parameters.
      batch_bytes: of the batch on a device.
      tensor: devices that the vocabulary is split over.
      in_parts: whether `batch` is one of the parts in which a whole batch passes.
    """
    modules = module_bytes(params, is_trained)
    tower = _tower(config, batch, modules)
    decoder = _decoder(config, batch, budget, modules)
    image_path = activations.kept_by_image_path(config, batch)
    logits = activations.logits_bytes(config.decoder, batch, tensor=tensor)
    table = next(path for path in _OUTPUT_TABLE if path in params)
    output = module_bytes({table: params[table]}, is_trained)["rest"]
    # Of a table that is read at both ends the gradient is a sum, in float32.
    in_float32 = config.decoder.tie_embeddings
    kept_before, rest = sum(tower.kept) + image_path, modules["rest"].gradients
    update = rest + decoder.gradients + tower.gradients
    # Where a batch passes in parts, the sums of the parts' gradients are there as well.
    summed = update if in_parts else 0
    moments = {
        "logits": kept_before
        + sum(decoder.kept)
        + logits
        + _in_use(config, output, in_float32=in_float32),
        "decoder": kept_before + rest + decoder.most_going_back(config),
        "tower": rest + decoder.gradients + tower.most_going_back(config),
    }
    moments = {name: summed + beside for name, beside in moments.items()}
    moments["update"] = update
    if not tower.gradients:
        del moments["tower"]
    return StepBytes(
        parameters=sum(module.held for module in modules.values()),
        optimizer=optimizer,
        batch=batch_bytes,
        gradients=update,
        kept={
            "tower": sum(tower.kept),
            "projector": image_path,
            "decoder": sum(decoder.kept),
        },
        logits=logits,
        moments=moments,
    )


def _tower(
    config: VLMConfig, batch: DeviceBatch, modules: Mapping[str, ModuleBytes]
) -> _Stack:
    count = config.vision.num_layers
    blocks = [modules[f"vision_tower/encoder/layers_{i}"] for i in range(count)]
    # A frozen tower has no backward pass.
    trains = any(block.gradients for block in blocks)
    kept = activations.kept_by_block(config, batch) if trains else 0
    worked = activations.worked_on_block(config, batch)
    return _Stack(modules=blocks, kept=[kept] * count, worked=[worked] * count)


def _decoder(
    config: VLMConfig,
    batch: DeviceBatch,
    budget: Budget | None,
    modules: Mapping[str, ModuleBytes],
) -> _Stack:
    stack = _Stack(modules=[], kept=[], worked=[])
    for i, kind in enumerate(config.plan.kinds):
        module = modules[f"language_model/layers_{i}"]
        # A conditional hands its parameters on to the backward pass.
        copied = module.held if budget is None and kind.is_gated else 0
        stack.modules.append(module)
        stack.kept.append(activations.kept_by_layer(config, batch, i, budget) + copied)
        stack.worked.append(activations.worked_on_layer(config, batch, i))
    return stack


def _in_use(config: VLMConfig, module: ModuleBytes, *, in_float32: bool = True) -> int:
    """Returns the bytes of whole parameters while they are used, beside those held.

    In the compute dtype for the products, and as many gradients before they are reduced
    to what the device holds: in float32, or as they come out of the products.
    """
    size = BYTES[config.compute_dtype]
    if module.whole > module.held:
        used = module.whole * size // 4
        return used + (module.whole if in_float32 else used)
    return 0 if size == 4 else module.whole * size // 4


def _gathered(x: Any) -> int:
    """Returns the bytes of a parameter once it is gathered over fsdp."""
    held, spec = math.prod(x.sharding.shard_shape(x.shape)), x.sharding.spec
    axes = [a for entry in spec if entry for a in _names(entry)]
    copies = x.sharding.mesh.shape["fsdp"] if "fsdp" in axes else 1
    return x.dtype.itemsize * held * copies


def _names(entry: str | tuple[str, ...]) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else entry
