"""Makes sure that all processes of a run are about to do the same.

Processes with another configuration, code or data would train on nonsense or wait for
one another for ever; nothing else notices.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def check_agreement(facts: Mapping[str, str]) -> None:
    """Raises ValueError on every process if some fact is not the same on all of them.

    Args:
      facts: {what: short text}, with the same keys everywhere; the error shows the
        values.
    """
    if jax.process_count() == 1:
        return
    described = [json.loads(text) for text in gathered_texts(json.dumps(dict(facts)))]
    lines = differences(described)
    if lines:
        raise ValueError(
            "The processes of this run differ:\n  "
            + "\n  ".join(lines)
            + "\nBring code, packages, data and command line to the same state on "
            "every host."
        )


def differences(described: list[dict[str, str]]) -> list[str]:
    """Returns a line for every process and fact in which it differs from process 0."""
    first, *others = described
    return [
        f"process {process} has {name} {other.get(name, '(absent)')}, process 0 has "
        f"{first.get(name, '(absent)')}"
        for process, other in enumerate(others, 1)
        for name in sorted(first.keys() | other.keys())
        if other.get(name) != first.get(name)
    ]


def gathered_texts(text: str) -> list[str]:
    """Returns the text of every process, in their order."""
    encoded = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(encoded.size))
    padded = np.zeros(np.max(lengths), np.uint8)
    padded[: encoded.size] = encoded
    rows = np.atleast_2d(multihost_utils.process_allgather(padded))
    return [
        row[:length].tobytes().decode()
        for row, length in zip(rows, np.atleast_1d(lengths), strict=True)
    ]


def all_succeeded(succeeded: bool) -> bool:
    """Returns whether every process says that it succeeded."""
    if jax.process_count() == 1:
        return succeeded
    return bool(np.all(multihost_utils.process_allgather(np.array(succeeded))))


def of_first_process(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of process 0 on every process; those of others play no part.

    All processes call it. Arrays of objects are not taken.
    """
    if jax.process_count() == 1:
        return dict(arrays)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    said = np.frombuffer(stream.getvalue(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.array(said.size)))
    # Of a few sizes: every other one would be a program of its own.
    own = np.zeros(1 << (size - 1).bit_length(), np.uint8)
    if jax.process_index() == 0:
        own[:size] = said
    heard = np.asarray(multihost_utils.broadcast_one_to_all(own))[:size]
    with np.load(io.BytesIO(heard.tobytes())) as found:
        return {name: found[name] for name in found.files}


def whole_arrays(tree: Any) -> Any:
    """Returns the arrays on the host, also where each process holds a part of them."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def code_digest(folder: Path) -> str:
    """Returns a digest of the Python files below a folder, their names included."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
