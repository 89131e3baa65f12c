"""Reads the answers of packed questions off the most likely next tokens.

A row holds questions and their right answers, so every place of an answer sees the
right tokens before it. Up to the first wrong token this is what greedy decoding sees as
well, so that it writes the same, the wrong token included; what it would write after
that is not known. An answer without a wrong token is what greedy decoding writes.

    words      bar  B  :  4            targets    B  :  4  <eos>
    loss_mask  0    0  1  1            predicted  1  2  4  <eos>   answer: 4
                                                  1  2  7  <eos>   answer: 7 ...
                                                  1  2  4  :       answer: 4 : ...
"""

import dataclasses
from collections.abc import Collection

import numpy as np
from jaxtyping import Bool, Int

from visor_jax.batch import Batch


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AnswerIndices:
    """Where the answers of X packed questions are predicted, row by row, and the right
    tokens there.

    rows: of the batch. indices: of the tokens in their row, in the order of positions;
    shorter answers are filled up to U, exists: without that. targets: right tokens.
    """

    rows: Int[np.ndarray, "X"]
    indices: Int[np.ndarray, "X U"]
    exists: Bool[np.ndarray, "X U"]
    targets: Int[np.ndarray, "X U"]

    @classmethod
    def of(cls, batch: Batch) -> "AnswerIndices":
        """Returns those of a host batch: a question a segment with loss, ascending."""
        rows, columns = np.nonzero(batch.loss_mask)
        segments = np.asarray(batch.text_segments)[rows, columns]
        positions = np.asarray(batch.text_positions)[rows, columns]
        # By order, not by index: that is what comes first, however a row is laid.
        order = np.lexsort((positions, segments, rows))
        rows, columns, segments = rows[order], columns[order], segments[order]
        starts = np.flatnonzero(
            np.diff(rows, prepend=-1) | np.diff(segments, prepend=0)
        )
        lengths = np.diff(starts, append=len(rows))
        exists = np.arange(lengths.max(initial=0)) < lengths[:, None]
        indices = np.zeros(exists.shape, np.int32)
        indices[exists] = columns
        first = rows[starts]
        targets = np.asarray(batch.targets)[first[:, None], indices]
        return cls(rows=first, indices=indices, exists=exists, targets=targets)

    def answers(
        self, predicted: Int[np.ndarray, "B T"], ends: Collection[int]
    ) -> list[tuple[int, ...]]:
        """Returns the tokens of every answer as far as they are known, without its end.

        Args:
          predicted: the most likely next token at every place. ends: tokens that end
            an answer.
        """
        tokens = predicted[self.rows[:, None], self.indices]
        wrong = (tokens != self.targets) & self.exists
        # Known are those with nothing wrong before them.
        known = (np.cumsum(wrong, axis=1) - wrong == 0) & self.exists
        ended = np.cumsum(np.isin(tokens, list(ends)), axis=1) > 0
        lengths = (known & ~ended).sum(axis=1).tolist()
        return [
            tuple(row[:length])
            for row, length in zip(tokens.tolist(), lengths, strict=True)
        ]
