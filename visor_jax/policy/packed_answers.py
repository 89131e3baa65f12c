"""Where the answers of packed questions lie in their rows.

An answer is the supervised tokens of one segment of one row; the first of them is
predicted from the prompt's last token, the routing token. Two packed questions:

    words      ring  :  yes   bar  B  :  4          routing  1  5
    segments   1     1  1     2    2  2  2          indices  1 2  5 6
    loss_mask  0     1  1     0    0  1  1          answer   0 0  1 1
"""

from typing import Any

import flax.struct
import numpy as np
from jaxtyping import Bool, Int

from visor_jax.batch import Batch


@flax.struct.dataclass
class PackedAnswers:
    """The answers of a batch by their tokens (host arrays; see the example above).

    routing: indices of routing tokens, segments ascending, and asked: which exist.
    indices: of supervised tokens, in the order of positions, and exists: which do.
    answer: to which routing token's answer each of them belongs. targets: right tokens.
    """

    routing: Int[Any, "B R"]
    asked: Bool[Any, "B R"]
    indices: Int[Any, "B A"]
    exists: Bool[Any, "B A"]
    answer: Int[Any, "B A"]
    targets: Int[Any, "B A"]

    @classmethod
    def of(cls, batch: Batch) -> "PackedAnswers":
        """Returns those of a host batch.

        Both axes are padded to powers of two, so that batches share programs.
        """
        rows = [_answers_of_row(batch, row) for row in range(batch.size)]
        routing, asked = _padded([routing for routing, _, _ in rows])
        indices, exists = _padded([indices for _, indices, _ in rows])
        answer, _ = _padded([answer for _, _, answer in rows])
        targets = np.take_along_axis(np.asarray(batch.targets), indices, axis=1)
        return cls(routing, asked, indices, exists, answer, targets)

    def routing_tokens(self) -> tuple[Int[np.ndarray, "X"], Int[np.ndarray, "X"]]:
        """Returns row and index of every routing token, row by row."""
        rows, columns = np.nonzero(self.asked)
        return rows, self.routing[rows, columns]

    def by_answer(
        self, values: Int[np.ndarray, "B A"]
    ) -> tuple[Int[np.ndarray, "X U"], Bool[np.ndarray, "X U"]]:
        """Returns the values of every answer's tokens, and which of them exist.

        Answers row by row, as `routing_tokens`; shorter ones are filled up with 0.
        """
        rows, columns = np.nonzero(self.exists)
        answers = self.answer[rows, columns]
        # Stable: the order of positions stays.
        order = np.lexsort((answers, rows))
        rows, columns, answers = rows[order], columns[order], answers[order]
        starts = np.flatnonzero(
            np.diff(rows, prepend=-1) | np.diff(answers, prepend=-1)
        )
        lengths = np.diff(starts, append=len(rows))
        exists = np.arange(lengths.max(initial=0)) < lengths[:, None]
        found = np.zeros(exists.shape, values.dtype)
        found[exists] = values[rows, columns]
        return found, exists


def _answers_of_row(
    batch: Batch, row: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (routing, indices, answer of every index)."""
    indices = np.flatnonzero(batch.loss_mask[row])
    # By position, not by place: that is what comes first, however a row is laid out.
    order = np.argsort(batch.text_positions[row][indices], kind="stable")
    indices = indices[order]
    segments = batch.text_segments[row][indices]
    _, first, answer = np.unique(segments, return_index=True, return_inverse=True)
    return indices[first], indices, answer


def _padded(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    longest = max(1, *map(len, rows))
    width = 1 << (longest - 1).bit_length()
    values = np.zeros((len(rows), width), np.int32)
    exists = np.zeros(values.shape, bool)
    for row, found in enumerate(rows):
        values[row, : len(found)] = found
        exists[row, : len(found)] = True
    return values, exists
