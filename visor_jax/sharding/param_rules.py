"""How every parameter is split: path patterns to logical axes, first match wins.

A kernel's axes are named by what they run over, so that the table reads like the
network. Optimiser state mirrors the parameters and is split alike. A parameter without
a rule is an error, never silently replicated; nor is one whose size its mesh axes do
not divide: padding a shard would show in every checkpoint and every sum of squares.
"""

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
from jax.sharding import NamedSharding, PartitionSpec

from visor_jax.axes import EMBED, HEADS, KV_HEADS, MLP, UNSPLIT, VISION_EMBED, VOCAB
from visor_jax.sharding.axis_rules import spec
from visor_jax.sharding.mesh import AnyMesh

Tree = Any

# Elements from which on a parameter that every device holds whole is worth a warning:
# 4 MB in float32, and twice that again for its optimiser state.
LARGE = 2**20

_logger = logging.getLogger(__name__)

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
    (r"projector/convolution_kernel$", (UNSPLIT, UNSPLIT, MLP, EMBED)),
    (r"image_newline$", (UNSPLIT,)),
    (r"token_compressor/kernel$", (UNSPLIT, EMBED)),
    (r"token_compressor/bias$", (UNSPLIT,)),
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
    # A few taps: gathering them, one by one, would take longer than holding them.
    (r"cross_attention/position_conv$", (UNSPLIT,)),
    (r"(norm|layernorm)/scale$", (UNSPLIT,)),
    # The policy is too small to be worth splitting.
    (r"^policy/", (UNSPLIT,)),
    # Training only.
    (r"reading_heads_\w+/", (UNSPLIT,)),
)


# {what is wrong: the parameters that it is wrong with}.
Problems = dict[str, list[str]]
# Parameters that a message names, of those with one fault.
_NAMED = 3


def rule_of(path: str) -> int | None:
    """Returns which rule a parameter ("a/b/kernel") follows; None if it has none."""
    matches = (i for i, (rule, _) in enumerate(PARAM_RULES) if re.search(rule, path))
    return next(matches, None)


def param_shardings(params: Tree, mesh: AnyMesh) -> Tree:
    """Returns a tree of `NamedSharding`s like `params` (arrays or abstract).

    Warns of large parameters that stay whole on a mesh that splits parameters.

    Raises:
      ValueError: for parameters that have no rule, have another rank than their rule,
        or whose dimension its mesh axes do not divide; a line for each such fault.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    problems: Problems = {}
    specs = {path: _spec_of(path, x.shape, mesh, problems) for path, x in flat.items()}
    if problems:
        raise ValueError(
            "Parameters cannot be split over the mesh "
            f"{dict(mesh.shape)}; choose mesh axes that divide them, or mend "
            "visor_jax/sharding/param_rules.py:\n  " + "\n  ".join(_told(problems))
        )
    shardings = {path: NamedSharding(mesh, s) for path, s in specs.items()}
    whole = whole_parameters(flat, shardings)
    if whole:
        _logger.warning("every device holds these large parameters whole: %s", whole)
    return flax.traverse_util.unflatten_dict(shardings, sep="/")


def whole_parameters(
    flat: Mapping[str, Any],
    shardings: Mapping[str, NamedSharding],
    *,
    at_least: int = LARGE,
) -> list[str]:
    """Returns the paths of large parameters that every device holds whole.

    None where the mesh splits no parameters: its axes fsdp and tensor have length 1.

    Args:
      flat: {"a/b/kernel": array, abstract or not}.
      shardings: with the same paths.
      at_least: elements that make a parameter large.
    """
    return [
        path
        for path, x in flat.items()
        if math.prod(x.shape) >= at_least
        and max(shardings[path].mesh.shape[axis] for axis in ("fsdp", "tensor")) > 1
        and shardings[path].shard_shape(x.shape) == tuple(x.shape)
    ]


def replicated(mesh: AnyMesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole (step, keys, gates)."""
    return NamedSharding(mesh, PartitionSpec())


def _spec_of(
    path: str, shape: tuple[int, ...], mesh: AnyMesh, problems: Problems
) -> PartitionSpec:
    def complain(reason: str) -> None:
        problems.setdefault(reason, []).append(f"{path} {shape}")

    rule = rule_of(path)
    if rule is None:
        complain("no rule")
        return PartitionSpec()
    _, logical = PARAM_RULES[rule]
    if all(name is None for name in logical):
        return PartitionSpec()
    if len(logical) != len(shape):
        complain(f"another rank than the rule {logical}")
        return PartitionSpec()
    found = spec(logical)
    for size, entry in zip(shape, found, strict=True):
        names = (entry,) if isinstance(entry, str) else entry or ()
        parts = math.prod(mesh.shape[name] for name in names)
        if size % parts:
            complain(f"{size} does not split into {parts} ({' x '.join(names)})")
    return found


def _told(problems: Problems) -> list[str]:
    """Returns a line for each reason, with a few of its parameters."""
    lines = []
    for reason, paths in problems.items():
        more = len(paths) - _NAMED
        behind = f" and {more} more" if more > 0 else ""
        lines.append(f"{reason}: {', '.join(paths[:_NAMED])}{behind}")
    return lines
