"""Says how the arrays of a checkpoint differ from the arrays a program expects."""

from collections.abc import Mapping
from typing import Any

import jax

# Beyond this many keys of one kind the list stops helping.
_LISTED = 40


def shapes_by_key(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns {"decoder/layer_0/w": shape} for a tree of arrays or their descriptions.

    Named tuples and tuples give the same keys as the dicts and lists that orbax keeps
    of them. Random keys are listed with the shape of their data.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): _stored_shape(leaf)
        for path, leaf in leaves
    }


def _stored_shape(leaf: Any) -> tuple[int, ...]:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return tuple(leaf.shape)


def differences(found: Any, expected: Any) -> str:
    """Returns every key that differs, as text over several lines; "" if none does.

    Args:
      found: what the checkpoint holds.
      expected: what the program needs.
    """
    found, expected = shapes_by_key(found), shapes_by_key(expected)
    both = found.keys() & expected.keys()
    missing = [f"{k} {expected[k]}" for k in expected.keys() - both]
    unexpected = [f"{k} {found[k]}" for k in found.keys() - both]
    misshapen = [
        f"{k} is {found[k]}, not {expected[k]}" for k in both if found[k] != expected[k]
    ]
    sections = {
        "missing in the checkpoint": missing,
        "unexpected in the checkpoint": unexpected,
        "of another shape": misshapen,
    }
    return listing(sections, at_most=_LISTED)


def listing(sections: Mapping[str, list[str]], *, at_most: int | None = None) -> str:
    """Returns the lines of every section under its name; "" if there are none.

    Args:
      sections: {name: lines}; empty ones are left out.
      at_most: lines of one section that are shown; None for all.
    """
    return "".join(_section(name, lines, at_most) for name, lines in sections.items())


def _section(name: str, lines: list[str], at_most: int | None) -> str:
    if not lines:
        return ""
    shown = sorted(lines)[:at_most]
    if len(shown) < len(lines):
        shown.append(f"... and {len(lines) - len(shown)} more")
    return f"\n  {name} ({len(lines)}):" + "".join(f"\n    {line}" for line in shown)
