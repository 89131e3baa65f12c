"""The tower that is asked for the words of answers, against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.tolerances import REFERENCE
from visor_jax.batch import Batch
from visor_jax.training.objectives.answer_tower import (
    COUNTS,
    AnswerTower,
    answered_tokens,
)
from visor_jax.training.objectives.tower_pretraining import (
    TowerSettings,
    pretrain_tower,
)

VISION = dataclasses.replace(tiny.VISION, num_layers=1)
VOCABULARY, ROWS, LENGTH = 11, 6, 5
SIDE = VISION.image_size


def batch_of(seed: int, *, pictures: int = ROWS) -> Batch:
    """Returns rows with random answers; only the first ones have a picture."""
    rng = np.random.default_rng(seed)
    shape = (ROWS, LENGTH)
    no_text, no_image = np.zeros(shape, np.int32), np.zeros((ROWS, 3), np.int32)
    has_picture = np.arange(ROWS) < pictures
    return Batch(
        pixels=rng.normal(size=(ROWS, 2, SIDE, SIDE, 3)).astype(np.float32),
        image_token_index=no_image,
        image_positions=no_image,
        image_mask=np.repeat(has_picture[:, None], 3, axis=1),
        tokens=no_text,
        text_positions=no_text,
        text_segments=no_text,
        text_mask=np.ones(shape, bool),
        # Token 3 is in every answer: it tells nothing.
        targets=np.where(
            np.arange(LENGTH) == 0, 3, rng.integers(0, VOCABULARY, shape)
        ).astype(np.int32),
        loss_mask=(np.arange(LENGTH) == 0) | (rng.random(shape) < 0.5),
    )


def occurs_in(batch: Batch) -> np.ndarray:
    found = np.zeros((ROWS, VOCABULARY))
    for row in range(ROWS):
        for place in range(LENGTH):
            if batch.loss_mask[row, place] and batch.image_mask[row].any():
                found[row, batch.targets[row, place]] = 1
    return found


def layer_norm(x: np.ndarray, params: dict) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * params["scale"] + params["bias"]


@pytest.mark.parametrize("pictures", [ROWS, 4, 0])
def test_the_tokens_of_answers_about_pictures_are_known(pictures):
    batch = batch_of(0, pictures=pictures)
    np.testing.assert_array_equal(answered_tokens(batch, VOCABULARY), occurs_in(batch))


def test_the_loss_is_that_of_numpy_and_counts_go_on():
    objective = AnswerTower(VISION, VOCABULARY)
    variables = objective.init(jax.random.key(0), jax.device_put(batch_of(0)))
    counts = {COUNTS: variables[COUNTS]}
    params = variables["params"]
    seen, with_token = 0, np.zeros(VOCABULARY)
    for seed, pictures in ((1, ROWS), (2, 4), (3, 0)):
        batch = batch_of(seed, pictures=pictures)
        variables = {"params": params, **counts}
        loss, counts = objective.apply(
            variables, jax.device_put(batch), mutable=[COUNTS]
        )
        occurs = occurs_in(batch)
        seen, with_token = seen + pictures, with_token + occurs.sum(0)
        idf = np.maximum(np.log(seen / (1 + with_token)), 0)
        assert idf[3] == 0
        assert idf.max() > 0.3
        features = objective.apply(
            variables,
            jnp.asarray(batch.pixels[:, 0]),
            method=lambda tower, pixels: tower.vision_tower(pixels),
        )
        pooled = layer_norm(np.asarray(features, np.float64).mean(1), params["norm"])
        logits = pooled @ params["head"]["kernel"] + params["head"]["bias"]
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        losses = [
            -(w * lp).sum() / w.sum()
            for w, lp in zip(occurs * idf, log_probs, strict=True)
            if w.sum() > 0
        ]
        assert len(losses) <= pictures
        expected = np.mean(losses) if losses else 0.0
        np.testing.assert_allclose(loss, expected, **REFERENCE)
        np.testing.assert_array_equal(counts[COUNTS]["with_token"], with_token)
        assert counts[COUNTS]["pictures"] == seen


def test_a_tower_learns_what_is_said_of_pictures():
    """Two colours, told by tokens 5 and 6: their features part, first at chance."""

    def told(seed):
        batch = batch_of(seed)
        colour = np.random.default_rng(seed).integers(0, 2, ROWS)
        batch.pixels[...] += np.where(colour, 0.5, -0.5)[:, None, None, None, None]
        batch.targets[:, 1], batch.loss_mask[:] = 5 + colour, False
        batch.loss_mask[:, :2] = True
        return batch

    losses = []
    tower = pretrain_tower(
        AnswerTower(VISION, VOCABULARY),
        TowerSettings(steps=100, learning_rate=3e-3),
        (told(seed) for seed in range(100)),
        seed=0,
        progress=lambda done, *, loss: losses.append(loss),
    )
    assert len(losses) == 2
    # Chance between two is log 2; between eleven more.
    assert losses[-1] < 0.1 < np.log(2) < 1.0
    assert tower.keys() == {"embeddings", "encoder", "post_layernorm"}
