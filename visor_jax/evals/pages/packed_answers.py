"""Reads the answers of packed questions off the most likely next tokens."""

import numpy as np

from visor_jax.data.pages.batches import EvaluationBatch
from visor_jax.evals.statistics import Answers


def read_answers(predicted: np.ndarray, asked: EvaluationBatch) -> Answers:
    """Returns the answers in a batch, rows that only fill it up left out.

    Args:
      predicted: (B, T), the most likely next token at every place.
    """
    batch = asked.batch
    segments = np.asarray(batch.text_segments)
    wrong = np.asarray(batch.loss_mask) & (predicted != batch.targets)
    # One bin per row and segment: every packed question has a segment of its own.
    per_row = int(segments.max()) + 1
    bins = np.arange(len(segments))[:, None] * per_row + segments
    mistakes = np.bincount(bins[wrong], minlength=len(segments) * per_row)
    rows, places = np.nonzero(asked.task_ids >= 0)
    return Answers(
        pages=asked.page_index[rows],
        tasks=asked.task_ids[rows, places],
        predicted=predicted[rows, places],
        targets=np.asarray(batch.targets)[rows, places],
        correct=mistakes[bins[rows, places]] == 0,
    )
