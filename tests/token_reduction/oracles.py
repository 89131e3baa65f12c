"""What the methods' descriptions say, in NumPy, one crop at a time, loop by loop."""

import numpy as np

from tests.token_reduction.pictures import PATCHES


def softmax(scores):
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def received(query, key):
    """Returns the mean attention to each patch; (P, N, H) of one crop."""
    total = np.zeros(len(key))
    for head in range(query.shape[1]):
        scores = query[:, head] @ key[:, head].T / query.shape[2] ** 0.5
        total += softmax(scores.astype(np.float64)).mean(axis=0)
    return total / query.shape[1]


def descending(scores):
    """Returns the indices by descending score; the lower index first among equals."""
    return sorted(range(len(scores)), key=lambda index: (-scores[index], index))


def cosines(features):
    features = np.asarray(features, np.float64)
    features = features / np.linalg.norm(features, axis=-1, keepdims=True)
    return features @ features.T


def crops_of(crops, budgets):
    """Yields (row, crop, its patches that are there, budget, arrays of the crop)."""
    there = np.asarray(crops.packing.there)
    pair = crops.tower.attention[-1]
    for row, crop in np.ndindex(there.shape[:2]):
        places = np.flatnonzero(there[row, crop])
        yield (
            *(row, crop, places, int(budgets[row, crop])),
            *(np.asarray(x)[row, crop] for x in (pair.query, pair.key)),
            np.asarray(crops.features)[row, crop],
        )


def keep_map(crops, chosen):
    """Returns (B, C, P) of {(row, crop): indices}."""
    keep = np.zeros((*crops.keep.shape[:2], PATCHES), bool)
    for place, indices in chosen.items():
        keep[place][list(indices)] = True
    return keep
