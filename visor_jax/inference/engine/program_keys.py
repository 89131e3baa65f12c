"""What programs of the engine there are, and what logs call them."""

from collections.abc import Iterable, Sequence
from typing import Any

from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket
from visor_jax.inference.engine.packed_prompts import ImageShape, image_shape
from visor_jax.inference.engine.program_shapes import ProgramShapes
from visor_jax.runtime.arguments import iterator_of, shown


def all_keys(
    shapes: ProgramShapes,
    buckets: Iterable[Bucket],
    budgets: Iterable[Budget],
    *,
    draws: bool = False,
) -> list[tuple[Any, ...]]:
    """Returns the keys of all programs for these buckets and budgets.

    draws: whether those of random draws and penalties are among them.

    Raises:
      ValueError: for a bucket that does not fit into the engine's memory.
    """
    buckets, budgets, counts = list(buckets), list(budgets), shapes.row_counts
    most = shapes.engine_config.images_at_once
    images = [1 << i for i in range(most.bit_length())]
    keys: list[tuple[Any, ...]] = []
    for shape in dict.fromkeys(image_shape(bucket) for bucket in buckets):
        keys += [("encode", shape, n) for n in images]
    for bucket in buckets:
        keys += [("prefill_trunk", bucket, n) for n in counts(bucket)]
    slots = [shapes.slots(budget, bucket) for budget in budgets for bucket in buckets]
    keys += [("first_tokens", count) for count in dict.fromkeys(slots)]
    for budget in budgets:
        for bucket in buckets:
            keys += [("prefill", budget, bucket, n) for n in counts(bucket)]
            if shapes.keeps_keys(budget, bucket):
                keys += [("prefill_text", budget, bucket, n) for n in counts(bucket)]
            keys.append(("decode", budget, bucket))
            if draws:
                keys.append(("decode_draws", budget, bucket))
    return keys


def name_of(key: tuple[Any, ...]) -> str:
    """Returns what logs call a program: its kind, budget, lengths and rows."""
    words = []
    for part in key:
        if isinstance(part, Bucket):
            words.append(f"{_image_name(image_shape(part))}+{part.text_tokens}")
        elif isinstance(part, ImageShape):
            words.append(_image_name(part))
        else:
            words.append(str(part))
    return " ".join(words)


def _image_name(shape: ImageShape) -> str:
    return f"{shape.crops}x{shape.tokens}{' with gaps' if shape.gaps else ''}"


def among(chosen: Any, known: Sequence[Any], name: str) -> Sequence[Any]:
    """Returns what was chosen of these, all for None. Raises ValueError for others."""
    if chosen is None:
        return known
    elements = iterator_of(chosen)
    found = [chosen] if elements is None else list(elements)
    kind = type(known[0])
    wrong = [e for e in found if not isinstance(e, kind) or e not in known]
    if wrong or elements is None:
        raise ValueError(
            f"{name}={shown(wrong or chosen)} are not among those of the engine: "
            f"{shown(list(known))}."
        )
    return found
