"""Keeps scores on disk: one file per batch of rows, each complete or not there.

    <folder>/identity.json    what the scores are of: network, data, budgets
             /00000.npz ...   `ScoredSamples` of one batch each

A stage that was stopped goes on with the first batch that is lacking. Scores of another
network or other data are refused, never mixed.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np

from visor_jax.policy.scores import ScoredSamples

FORMAT = 1
IDENTITY = "identity.json"
Params = Any


def digest_of_params(params: Params) -> str:
    """Returns a digest of all parameters: names, shapes, dtypes and values."""
    digest = hashlib.sha256()
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    for path, value in sorted(flat.items()):
        array = np.ascontiguousarray(np.asarray(value))
        digest.update(f"{path} {array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8))
    return digest.hexdigest()


def cache_folder(directory: str | os.PathLike, identity: Mapping[str, Any]) -> Path:
    """Returns the folder below `directory` for scores of this identity."""
    text = json.dumps(_described(identity), sort_keys=True).encode()
    return Path(directory) / f"scores-{hashlib.sha256(text).hexdigest()[:16]}"


class ScoreCache:
    """The scores of one network on a numbered sequence of batches."""

    def __init__(self, folder: str | os.PathLike, identity: Mapping[str, Any]) -> None:
        """Opens the folder, or makes it.

        Args:
          identity: JSON values that say what the scores are of.

        Raises:
          ValueError: if it holds scores of something else, or files without saying
            of what.
        """
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        file, described = self._folder / IDENTITY, _described(identity)
        if file.exists():
            _check_identity(file, described)
        elif any(self._folder.glob("*.npz")):
            raise ValueError(
                f"{self._folder} holds scores but no {IDENTITY} that says of what: "
                "remove it, or give another folder."
            )
        else:
            _replace(file, json.dumps(described, indent=2).encode())

    def read(self, number: int) -> ScoredSamples | None:
        """Returns the scores of a batch; None if they are not there or damaged."""
        file = self._file(number)
        try:
            with np.load(file) as arrays:
                return ScoredSamples(**dict(arrays.items()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile):
            file.unlink()
            return None

    def write(self, number: int, samples: ScoredSamples) -> None:
        """Writes the scores of a batch; a reader never sees half of them."""
        temporary = self._file(number).with_suffix(f".{os.getpid()}")
        with temporary.open("wb") as stream:
            np.savez(stream, **samples.arrays())
        temporary.replace(self._file(number))

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:05d}.npz"


def collect_scores(
    cache: ScoreCache,
    batches: Iterable[Any],
    score: Callable[[Any, int], ScoredSamples],
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> ScoredSamples:
    """Returns the scores of all batches, from the cache where they are there.

    Args:
      batches: the same ones, in the same order, at every call.
      score: from (batch, its number) to its scores.
      progress: called with the number of batches done after each; may raise to stop.
    """
    parts = []
    for number, batch in enumerate(batches):
        found = cache.read(number)
        if found is None:
            found = score(batch, number)
            cache.write(number, found)
        parts.append(found)
        progress(number + 1)
    return ScoredSamples.join(parts)


def _described(identity: Mapping[str, Any]) -> dict[str, Any]:
    # Through JSON, as it will be read: tuples become lists.
    return json.loads(json.dumps({**identity, "format": FORMAT}))


def _check_identity(file: Path, wanted: dict[str, Any]) -> None:
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(
            f"{file} cannot be read ({error}): remove {file.parent}."
        ) from error
    keys = sorted(
        k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k)
    )
    if keys:
        changes = "; ".join(
            f"{k}: {str(found.get(k))[:80]} there, {str(wanted.get(k))[:80]} asked for"
            for k in keys
        )
        raise ValueError(
            f"{file.parent} holds scores of something else ({changes}): give another "
            "folder, or remove it to score anew."
        )


def _replace(file: Path, content: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(file)
