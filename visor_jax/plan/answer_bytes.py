"""The bytes of a network that answers, on one device, before anything is loaded.

Parameters, and the keys and values of prompts and answers, are counted exactly, from
shapes and shardings. What a program holds beside them while it reads prompts comes by
formula, for the fullest of three moments, in numbers of the compute dtype for each
token (mlp, heads and K/V heads over tensor):

    tower     2 E, and 4 E of the attention or 2 mlp; E twice for every patch, pixels
    decoder   2 D, and queries, mixed values, K and V or 3 mlp; D twice for every token
    logits    float32, of one token a prompt

A parameter that is split over fsdp is gathered for its layer, one layer at a time.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import flax.traverse_util
import jax
import numpy as np

from visor_jax.budget import Budget
from visor_jax.checkpoints.placement import placed
from visor_jax.inference.engine.placement import Placement
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.kv_cache import KVCache
from visor_jax.models.decoder.token_reducer import KEEP_ALL
from visor_jax.models.parameters import parameter_shapes
from visor_jax.models.vision.siglip import crops_at_once
from visor_jax.ops.attention import writes_scores
from visor_jax.plan.abstract_step import bytes_on_a_device
from visor_jax.plan.activations import BYTES
from visor_jax.plan.step_bytes import module_bytes
from visor_jax.runtime.device_cache import num_bytes_of
from visor_jax.sharding.mesh import AnyMesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerShape:
    """What is answered at once, padding included.

    prompts: that are read together. slots: answers being written beside them. crops,
    image_tokens, text_tokens: of a prompt. new_tokens: of an answer. corners: patches
    per image token, see `Batch`.
    """

    prompts: int
    slots: int
    crops: int
    image_tokens: int
    text_tokens: int
    new_tokens: int
    corners: int = 1

    def __post_init__(self) -> None:
        wrong = {k: v for k, v in dataclasses.asdict(self).items() if v < 1}
        if wrong:
            raise ValueError(f"Answers need numbers of at least 1: {wrong}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerBytes:
    """One device's memory.

    answers, prompts: keys and values of both. moments: {moment: what a program holds
    beside them while it reads prompts}.
    """

    parameters: int
    answers: int
    prompts: int
    moments: Mapping[str, int]

    @property
    def peak(self) -> str:
        """The moment when memory is fullest."""
        return max(self.moments, key=self.moments.__getitem__)

    @property
    def total(self) -> int:
        held = self.parameters + self.answers + self.prompts
        return held + self.moments[self.peak]


def answer_bytes(
    config: VLMConfig, shape: AnswerShape, budget: Budget, *, mesh: AnyMesh
) -> AnswerBytes:
    """Returns the bytes of a network that answers in one budget.

    Args:
      config: parameters are of its compute dtype, as `load(..., dtype=...)` makes them.
      mesh: (1, 1, 1) for one device.

    Raises:
      ValueError: if a parameter or the query heads cannot be split over the mesh.
    """
    dtype = np.dtype(config.compute_dtype)
    params = placed(parameter_shapes(config), dtype=dtype, mesh=mesh)
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    modules = module_bytes(flat, dict.fromkeys(flat, False))
    # What is gathered is there beside what each device holds of it.
    gathered = max(module.whole - module.held for module in modules.values())
    place = Placement(mesh)
    rows = shape.prompts // place.shares(shape.prompts)
    work = _Work(config=config, shape=shape, rows=rows, tensor=mesh.shape["tensor"])
    answer_text = shape.text_tokens + shape.new_tokens - 1
    moments = {
        "tower": work.tower(),
        "decoder": work.decoder(budget),
        "logits": work.logits(),
    }
    return AnswerBytes(
        parameters=bytes_on_a_device(params),
        answers=_cache_bytes(config, shape, budget, place, shape.slots, answer_text),
        prompts=_cache_bytes(
            config, shape, budget, place, shape.prompts, shape.text_tokens
        ),
        moments={name: held + gathered for name, held in moments.items()},
    )


def _cache_bytes(
    config: VLMConfig,
    shape: AnswerShape,
    budget: Budget,
    place: Placement,
    rows: int,
    text_slots: int,
) -> int:
    empty = functools.partial(
        KVCache.empty,
        config,
        budget.gates(config.plan),
        KEEP_ALL,
        rows=rows,
        text_slots=text_slots,
        image_tokens=shape.image_tokens,
    )
    return num_bytes_of(place.split(jax.eval_shape(empty)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Work:
    """What programs work on; rows: prompts on a device. tensor: parts of heads."""

    config: VLMConfig
    shape: AnswerShape
    rows: int
    tensor: int

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return BYTES[self.config.compute_dtype]

    def tower(self) -> int:
        """Returns the bytes while a block takes a group of crops."""
        vision, crops = self.config.vision, self.shape.crops
        group = crops_at_once(vision, samples=self.rows, crops=crops)
        widest = max(4 * vision.width, 2 * vision.mlp_width)
        a_patch = 2 * vision.width + self._share(widest)
        patches = self.rows * vision.num_patches
        numbers = patches * (group * a_patch + 2 * crops * vision.width)
        pixels = 4 * self.rows * crops * 3 * vision.image_size**2
        scores = self._scores(vision.num_heads, vision.num_patches, vision.num_patches)
        return self.size * numbers + pixels + group * scores

    def decoder(self, budget: Budget) -> int:
        """Returns the bytes of the widest layer; an image that waits is counted."""
        decoder, plan = self.config.decoder, self.config.plan
        text, image = self.shape.text_tokens, self.shape.image_tokens
        refined = bool(budget.self_layers) or any(
            kind.refines_image and not kind.is_gated for kind in plan.kinds
        )
        queries = text + (image if refined else 0)
        kv = 2 * decoder.num_kv_heads * decoder.head_dim
        attended = 2 * decoder.heads_width + kv
        widest = self._share(max(attended, 3 * decoder.mlp_width))
        numbers = queries * (2 * decoder.width + widest)
        numbers += 2 * (text + image) * decoder.width
        scores = self._scores(decoder.num_heads, queries, text + image)
        return self.size * self.rows * numbers + scores

    def logits(self) -> int:
        """Returns the bytes of the logits of the tokens that follow."""
        return 4 * self.rows * self._share(self.config.decoder.vocab_size)

    def _scores(self, heads: int, queries: int, keys: int) -> int:
        if not writes_scores(queries, keys, kernel=self.config.attention):
            return 0
        return 4 * self.rows * self._share(heads * queries * keys)

    def _share(self, numbers: int) -> int:
        return math.ceil(numbers / self.tensor)
