"""What a network answered in one condition, as a file that a report is made of.

A file for each network and condition: what was measured stays when a run is stopped,
and the next one goes on behind it. Its name ends with a digest of all that the numbers
depend on but the code: other parameters, pages or settings are other files.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visor_jax.evals.predictions import Predictions
from visor_jax.evals.statistics import ScoreTable
from visor_jax.runtime import atomic_write

ROWS = "rows"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The answers of one network in one condition.

    name: of the condition. seed: of the network's training. tasks: their names; task,
    cluster: the number of each example's. scores: of each example, in 0..1. answers:
    {example: (text, whether it is right)} of the shown images. kept: which image tokens
    of these reach the last layer; None if all.
    """

    name: str
    seed: int
    tasks: tuple[str, ...]
    task: tuple[int, ...]
    cluster: tuple[int, ...]
    scores: tuple[float, ...]
    answers: Mapping[str, tuple[str, bool]]
    kept: tuple[tuple[int, ...], ...] | None = None

    @property
    def table(self) -> ScoreTable:
        """The scores by cluster and task, for statistics."""
        return ScoreTable.of(
            np.array(self.scores, float), np.array(self.cluster), np.array(self.task)
        )

    def write(self, file: Path) -> None:
        """Writes the file."""
        text = json.dumps(dataclasses.asdict(self), separators=(",", ":"))
        atomic_write.write_text(file, text + "\n")

    @classmethod
    def read(cls, file: Path) -> "Outcome":
        """Returns what `write` wrote.

        Raises:
          ValueError: for a file that it did not.
        """
        try:
            found = json.loads(file.read_text())
            for name in ("tasks", "task", "cluster", "scores"):
                found[name] = tuple(found[name])
            found["answers"] = {k: (t, r) for k, (t, r) in found["answers"].items()}
            if found["kept"] is not None:
                found["kept"] = tuple(map(tuple, found["kept"]))
            return cls(**found)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file} is no row of this comparison ({error}): remove it."
            ) from error


def columns(found: Predictions, row: int, shown: Sequence[str]) -> dict[str, Any]:
    """Returns the fields of an outcome that answers at one budget decide.

    Args:
      row: of the budget. shown: ids of examples whose answers are kept.
    """
    number = {name: i for i, name in enumerate(found.tasks)}
    clusters = dict.fromkeys(found.example_clusters)
    place = {name: i for i, name in enumerate(clusters)}
    scores = [_plain(score) for score in found.main_scores[row].tolist()]
    at = {name: i for i, name in enumerate(found.ids)}
    answers = {
        name: (found.answers[row][at[name]], scores[at[name]] == 1) for name in shown
    }
    return {
        "tasks": found.tasks,
        "task": tuple(number[name] for name in found.example_tasks),
        "cluster": tuple(place[name] for name in found.example_clusters),
        "scores": tuple(scores),
        "answers": answers,
    }


def file_of(folder: Path, name: str, seed: int, identity: Mapping[str, Any]) -> Path:
    """Returns where the outcome of a condition lies.

    Args:
      identity: JSON values of all that its numbers depend on.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    words = re.sub(r"[^A-Za-z0-9.+]+", "_", name.replace(" + ", "_with_"))
    return folder / ROWS / f"{words}-seed{seed}-{digest.hexdigest()[:8]}.json"


def _plain(score: float) -> float | int:
    return int(score) if score in (0, 1) else score
