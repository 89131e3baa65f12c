"""How every parameter is split: path patterns to logical axes, first match wins.

A kernel's axes are named by what they run over, so that the table reads like the
network. Optimiser state mirrors the parameters and is split alike. A parameter without
a rule is an error, never silently replicated.
"""

import math
import re
from typing import Any

import flax.traverse_util
import jax
from jax.sharding import NamedSharding, PartitionSpec

from visor_jax.axes import EMBED, HEADS, KV_HEADS, MLP, UNSPLIT, VISION_EMBED, VOCAB
from visor_jax.sharding.axis_rules import spec

Tree = Any

PARAM_RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    # Vision tower.
    (r"embeddings/patch_embedding/kernel$", (UNSPLIT, UNSPLIT, UNSPLIT, VISION_EMBED)),
    (r"embeddings/position_embedding/embedding$", (UNSPLIT, VISION_EMBED)),
    (r"vision_tower/.*/(q|k|v)_proj/kernel$", (VISION_EMBED, HEADS)),
    (r"vision_tower/.*/(q|k|v)_proj/bias$", (HEADS,)),
    (r"vision_tower/.*/out_proj/kernel$", (HEADS, VISION_EMBED)),
    (r"vision_tower/.*/fc1/kernel$", (VISION_EMBED, MLP)),
    (r"vision_tower/.*/fc1/bias$", (MLP,)),
    (r"vision_tower/.*/fc2/kernel$", (MLP, VISION_EMBED)),
    (r"vision_tower/", (UNSPLIT,)),
    # Projector.
    (r"projector/linear_1/kernel$", (VISION_EMBED, MLP)),
    (r"projector/linear_1/bias$", (MLP,)),
    (r"projector/linear_2/kernel$", (MLP, EMBED)),
    (r"projector/linear_2/bias$", (UNSPLIT,)),
    (r"projector/(row|column)_embedding$", (UNSPLIT, EMBED)),
    (r"image_newline$", (UNSPLIT,)),
    # Decoder and adapters.
    (r"embed_tokens/embedding$", (VOCAB, EMBED)),
    (r"lm_head/kernel$", (EMBED, VOCAB)),
    (r"layers_\d+/.*/q_proj/kernel$", (EMBED, HEADS)),
    (r"layers_\d+/.*/q_proj/bias$", (HEADS,)),
    (r"layers_\d+/.*/(k|v)_proj/kernel$", (EMBED, KV_HEADS)),
    (r"layers_\d+/.*/(k|v)_proj/bias$", (KV_HEADS,)),
    (r"layers_\d+/.*/o_proj/kernel$", (HEADS, EMBED)),
    (r"mlp/(gate|up)_proj/kernel$", (EMBED, MLP)),
    (r"mlp/down_proj/kernel$", (MLP, EMBED)),
    (r"cross_attention/position_conv$", (UNSPLIT, EMBED)),
    (r"(norm|layernorm)/scale$", (UNSPLIT,)),
    # The policy is too small to be worth splitting.
    (r"^policy/", (UNSPLIT,)),
    # Training only.
    (r"reading_heads_\w+/", (UNSPLIT,)),
)


def param_shardings(params: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """Returns a tree of `NamedSharding`s like `params` (arrays or abstract).

    Raises:
      ValueError: listing every parameter that has no rule, has another rank than its
        rule, or whose dimension its mesh axes do not divide.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    problems: list[str] = []
    specs = {path: _spec_of(path, x.shape, mesh, problems) for path, x in flat.items()}
    if problems:
        raise ValueError("Parameters cannot be split:\n  " + "\n  ".join(problems))
    shardings = {path: NamedSharding(mesh, s) for path, s in specs.items()}
    return flax.traverse_util.unflatten_dict(shardings, sep="/")


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole (step, keys, gates)."""
    return NamedSharding(mesh, PartitionSpec())


def _spec_of(
    path: str, shape: tuple[int, ...], mesh: jax.sharding.Mesh, problems: list[str]
) -> PartitionSpec:
    logical = next((rule for p, rule in PARAM_RULES if re.search(p, path)), None)
    if logical is None:
        problems.append(f"{path} {shape}: no rule in visor_jax/sharding/param_rules.py")
        return PartitionSpec()
    if all(name is None for name in logical):
        return PartitionSpec()
    if len(logical) != len(shape):
        problems.append(f"{path} {shape}: its rule {logical} has another rank")
        return PartitionSpec()
    found = spec(logical)
    for size, entry in zip(shape, found, strict=True):
        names = (entry,) if isinstance(entry, str) else entry or ()
        parts = math.prod(mesh.shape[name] for name in names)
        if size % parts:
            problems.append(f"{path} {shape}: {size} does not split into {parts}")
    return found
