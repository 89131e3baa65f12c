"""Tiny networks and batches that still have every feature of the real ones.

`NETWORKS` holds one configuration per shape of plan; `random_batch` lays out samples
described by `Sample`; `params_of` gives parameters in which nothing is trivial.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from visor_jax.batch import Batch
from visor_jax.budget import Budget, BudgetSet
from visor_jax.layer_plan import LayerPlan, StaticGate
from visor_jax.models.config import (
    ENTRY,
    AdapterConfig,
    DecoderConfig,
    VisionConfig,
    VLMConfig,
)
from visor_jax.models.vlm import VLM

# 14 = 3 * 4 + 2: as in the real tower, the last pixels fill no patch.
VISION = VisionConfig(
    width=16, mlp_width=24, num_layers=2, num_heads=2, image_size=14, patch_size=4
)
DECODER = DecoderConfig(
    vocab_size=40,
    width=32,
    mlp_width=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rope_theta=1e4,
)

# TEXT, CROSS and SELF; a reader after every SELF layer; TEXT last.
VISOR = VLMConfig(
    vision=VISION,
    decoder=DECODER,
    adapter=AdapterConfig(num_kv_heads=4),
    plan=LayerPlan.build(6, cross=(0, 2, 4), self_=(1, 3)),
)

NETWORKS: dict[str, VLMConfig] = {
    "visor": VISOR,
    "dense": VISOR.replace(plan=LayerPlan.dense(3)),
    "cross_only": VISOR.replace(plan=LayerPlan.build(3, cross=(0, 2))),
    "text_only": VISOR.replace(plan=LayerPlan.build(2)),
    # Text reads what a SELF layer has made of the image, in the layer's own attention.
    "read": VISOR.replace(plan=LayerPlan.build(4, cross=(0,), self_=(1,), read=(2,))),
    # Nobody reads what the last SELF layer makes of the image.
    "unread_self": VISOR.replace(plan=LayerPlan.build(4, cross=(1,), self_=(0, 2, 3))),
    # One key/value head for all query heads, in the adapters one for two.
    "grouped": VISOR.replace(
        decoder=dataclasses.replace(DECODER, num_kv_heads=1),
        adapter=AdapterConfig(num_kv_heads=2, conv_kernel=3),
        plan=LayerPlan.build(3, cross=(0, 2), self_=(1,)),
    ),
    "untied": VISOR.replace(
        decoder=dataclasses.replace(DECODER, tie_embeddings=False),
        image_newline=False,
        plan=LayerPlan.build(3, cross=(2,), self_=(1,)),
    ),
    # The embedded benchmark's extras.
    "reading": VISOR.replace(
        image_newline=False,
        grid_embedding=True,
        reading_layers=(ENTRY, 0, 2),
        plan=LayerPlan.build(4, cross=(1, 3), self_=(0, 2)),
    ),
    # Patches that have seen those around them.
    "convolved": VISOR.replace(
        projector_convolution=3, plan=LayerPlan.build(3, cross=(0, 2), self_=(1,))
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Tokens before the image, of the image, and of each packed question after it."""

    before: int = 0
    image: int = 0
    questions: tuple[int, ...] = ()

    @property
    def text(self) -> int:
        return self.before + sum(self.questions)


SAMPLES = (
    Sample(image=12, questions=(4, 3)),
    Sample(before=3, image=7, questions=(5,)),
    Sample(questions=(6,)),
    Sample(before=2, image=9),
)


def random_batch(
    config: VLMConfig,
    samples: Sequence[Sample] = SAMPLES,
    *,
    seed: int = 0,
    crops: int = 2,
    padding: int = 2,
) -> Batch:
    """Returns a NumPy batch of the samples, with `padding` unused slots at least."""
    rng = np.random.default_rng(seed)
    size = len(samples)
    image_shape = (size, max(s.image for s in samples) + padding)
    text_shape = (size, max(s.text for s in samples) + padding)
    places = crops * config.vision.num_patches + config.image_newline
    image_mask, image_positions = _empty(image_shape, bool), _empty(image_shape)
    text_mask, text_positions = _empty(text_shape, bool), _empty(text_shape)
    segments = _empty(text_shape)
    for row, sample in enumerate(samples):
        image_mask[row, : sample.image] = True
        image_positions[row, : sample.image] = sample.before + np.arange(sample.image)
        text_mask[row, : sample.text] = True
        text_positions[row, : sample.before] = np.arange(sample.before)
        start = sample.before
        for segment, length in enumerate(sample.questions, 1):
            slots = slice(start, start + length)
            first = sample.before + sample.image
            text_positions[row, slots] = first + np.arange(length)
            segments[row, slots] = segment
            start += length
    side = config.vision.image_size
    vocab = config.decoder.vocab_size
    return Batch(
        pixels=rng.normal(size=(size, crops, side, side, 3)).astype(np.float32),
        image_token_index=np.where(
            image_mask, rng.integers(0, places, image_shape), 0
        ).astype(np.int32),
        image_positions=image_positions,
        image_mask=image_mask,
        tokens=np.where(text_mask, rng.integers(0, vocab, text_shape), 0).astype(
            np.int32
        ),
        text_positions=text_positions,
        text_segments=segments,
        text_mask=text_mask,
        targets=rng.integers(0, vocab, text_shape).astype(np.int32),
        loss_mask=text_mask & (rng.random(text_shape) < 0.7),
    )


def _empty(shape: tuple[int, int], dtype: type = np.int32) -> np.ndarray:
    return np.zeros(shape, dtype)


def every_budget(config: VLMConfig) -> BudgetSet:
    """Returns all subsets of the SELF layers."""
    return BudgetSet.parse(["every"], config.plan)


def all_on(config: VLMConfig) -> tuple[bool, ...]:
    """Returns the static gates of the full budget."""
    return Budget.all(config.plan).gates(config.plan)


def initial_params(config: VLMConfig) -> Any:
    """Returns the parameters as the network creates them; slow, mostly compilation."""
    return jax.jit(_init(config))(jax.random.key(0), random_batch(config))


def param_shapes(config: VLMConfig) -> Any:
    """Returns the shapes of all parameters, reading heads included."""
    return jax.eval_shape(_init(config), jax.random.key(0), random_batch(config))


def _init(config: VLMConfig) -> Callable[..., Any]:
    # Parameters do not depend on how activations are computed.
    model = VLM(config.replace(compute_dtype="float32", remat="none"))
    return functools.partial(model.init, gates=all_on(config), reading=True)


@functools.cache
def params_of(config: VLMConfig, seed: int = 0) -> Any:
    """Returns random parameters of ordinary size, none of them exactly zero or one."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, shape: jax.ShapeDtypeStruct) -> jax.Array:
        noise = rng.normal(size=shape.shape)
        if path[-1].key == "scale":
            noise = 1 + 0.1 * noise
        elif path[-1].key == "position_conv":
            noise *= 0.3
        elif path[-1].key in ("kernel", "convolution_kernel"):
            noise *= np.prod(shape.shape[:-1]) ** -0.5
        else:
            noise *= 0.3
        return jnp.asarray(noise, shape.dtype)

    # The first caller may be under a trace, whose values must not be kept.
    with jax.ensure_compile_time_eval():
        return jax.tree.map_with_path(draw, param_shapes(config))


def perturbed(params: Any, key: jax.Array, scale: float = 0.1) -> Any:
    """Returns the parameters plus noise, so that no bias, norm or output is trivial."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        x + scale * jax.random.normal(k, x.shape)
        for x, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, noisy)


@functools.partial(jax.jit, static_argnames=("config", "gates", "reading"))
def forward_static(
    params: Any,
    batch: Batch,
    *,
    config: VLMConfig,
    gates: tuple[StaticGate, ...],
    reading: bool = False,
) -> Any:
    """Returns the `VLMOutput` of the program made for these gates."""
    return VLM(config).apply(params, batch, gates, reading=reading)


@functools.partial(jax.jit, static_argnames=("config", "reading"))
def forward_traced(
    params: Any, batch: Batch, gates: Any, *, config: VLMConfig, reading: bool = False
) -> Any:
    """Returns the `VLMOutput` of the one program that serves every budget."""
    return VLM(config).apply(params, batch, gates, reading=reading)


def on_device(batch: Batch) -> Batch:
    """Returns the batch as jax arrays."""
    return batch.map(jnp.asarray)
