"""Features and scores of packed questions against one question at a time."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.tolerances import REORDERED
from visor_jax.batch import Batch
from visor_jax.budget import BudgetSet
from visor_jax.models.vlm import VLM, run_trunk
from visor_jax.policy.features import policy_features
from visor_jax.policy.packed_answers import PackedAnswers
from visor_jax.policy.scores import ScoredSamples, score_batch

CONFIG = tiny.VISOR
MODEL, PARAMS = VLM(CONFIG), tiny.params_of(CONFIG)["params"]
BUDGETS = BudgetSet.parse(["all", "none"], CONFIG.plan)
TRUNK = jax.jit(functools.partial(MODEL.apply, method=run_trunk))
# Row 0 has two questions, row 2 has no image; the last row of SAMPLES asks nothing.
ASKED = ((0, 1), (0, 2), (1, 1), (2, 1))


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Packed questions; of each the last two tokens are supervised, as on pages."""
    batch = tiny.random_batch(CONFIG)
    loss_mask = np.zeros_like(batch.loss_mask)
    for row, segment in ASKED:
        places = np.flatnonzero(batch.text_segments[row] == segment)
        loss_mask[row, places[-2:]] = True
    return batch.replace(loss_mask=loss_mask)


def alone(batch: Batch, row: int, segment: int, *, pad: str) -> Batch:
    """Returns the prompt of one question, up to its routing token, as a batch of 1."""
    own = (batch.text_segments[row] == segment) | (batch.text_segments[row] == 0)
    kept = np.flatnonzero(own & batch.text_mask[row])
    first = np.flatnonzero(batch.loss_mask[row] & (batch.text_segments[row] == segment))
    kept = kept[kept <= first[0]]
    single = batch.map(lambda x: x[row : row + 1])
    before = 3 if pad == "left" else 0
    after = 3 - before

    def cut(x):
        return np.pad(x[:, kept], ((0, 0), (before, after)))

    names = [f.name for f in dataclasses.fields(Batch)]
    text = [n for n in names if n.startswith(("text_", "tokens", "targets", "loss"))]
    return single.replace(**{n: cut(getattr(single, n)) for n in text})


@pytest.fixture(scope="module")
def scored(batch) -> ScoredSamples:
    return score_batch(MODEL, PARAMS, batch, BUDGETS)


def test_answers_are_found_by_segment(batch):
    answers = PackedAnswers.of(batch)
    rows, routing = answers.routing_tokens()
    found = list(zip(rows, batch.text_segments[rows, routing], strict=True))
    assert found == list(ASKED)
    for row, index in zip(rows, routing, strict=True):
        segment = batch.text_segments[row, index]
        indices = np.flatnonzero(batch.text_segments[row] == segment)
        assert index == indices[-2]
    # Padded to powers of two: two questions of two supervised tokens.
    assert answers.routing.shape == (4, 2)
    assert answers.indices.shape == (4, 4)
    assert answers.exists.sum() == batch.loss_mask.sum()


@pytest.mark.parametrize("pad", ["left", "right"])
def test_features_are_those_of_the_prompt_alone(batch, scored, pad):
    for i, (row, segment) in enumerate(ASKED):
        prompt = tiny.on_device(alone(batch, row, segment, pad=pad))
        trunk = TRUNK({"params": PARAMS}, prompt)
        found = policy_features(trunk)
        np.testing.assert_allclose(scored.routing[i], found.routing[0, 0], **REORDERED)
        np.testing.assert_allclose(scored.image[i], found.image[0, 0], **REORDERED)
        valid = np.asarray(trunk.image.tags.valid[0])
        hidden = np.asarray(trunk.image.hidden[0])[valid]
        mean = hidden.mean(axis=0) if valid.any() else np.zeros(hidden.shape[1])
        np.testing.assert_allclose(scored.image[i], mean, **REORDERED)


def test_scores_are_those_of_the_whole_network_at_each_budget(batch, scored):
    assert scored.rows.tolist() == [row for row, _ in ASKED]
    for k, budget in enumerate(BUDGETS):
        gates = budget.gates(CONFIG.plan)
        output = tiny.forward_static(
            {"params": PARAMS}, tiny.on_device(batch), config=CONFIG, gates=gates
        )
        logits = np.asarray(output.logits, np.float64)
        log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        for i, (row, segment) in enumerate(ASKED):
            own = batch.loss_mask[row] & (batch.text_segments[row] == segment)
            places = np.flatnonzero(own)
            targets = batch.targets[row, places]
            picked = log_probs[row, places, targets].sum()
            np.testing.assert_allclose(scored.log_likelihood[i, k], picked, **REORDERED)
            right = (log_probs[row, places].argmax(axis=-1) == targets).all()
            assert scored.correct[i, k] == right


def test_right_answers_count_as_right_at_the_budget_that_gives_them(batch):
    budget = BUDGETS.largest
    output = tiny.forward_static(
        {"params": PARAMS},
        tiny.on_device(batch),
        config=CONFIG,
        gates=budget.gates(CONFIG.plan),
    )
    best = np.asarray(jnp.argmax(output.logits, axis=-1), np.int32)
    one_wrong = best.copy()
    places = np.flatnonzero(batch.loss_mask[0])
    one_wrong[0, places[-1]] = (best[0, places[-1]] + 1) % CONFIG.decoder.vocab_size
    full = BUDGETS.index(budget)
    right = score_batch(MODEL, PARAMS, batch.replace(targets=best), BUDGETS)
    assert right.correct[:, full].all()
    wrong = score_batch(MODEL, PARAMS, batch.replace(targets=one_wrong), BUDGETS)
    assert wrong.correct[:, full].tolist() == [True, False, True, True]


def test_samples_join_in_order(scored):
    twice = ScoredSamples.join([scored, scored])
    assert len(twice) == 2 * len(scored)
    np.testing.assert_array_equal(twice.routing[len(scored) :], scored.routing)
    assert twice.features.routing.shape == (8, 1, CONFIG.decoder.width)
    jax.tree.map(
        np.testing.assert_array_equal, twice.arrays()["slots"][:4], scored.slots
    )
