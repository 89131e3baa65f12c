"""Confidence against NumPy: a full forward pass over prompt and answer, no cache."""

import dataclasses

import jax
import numpy as np
import pytest

from tests import tiny
from tests.inference import tiny_processor
from tests.inference.engine.tiny_engine import BUDGETS, CONFIG, MODEL, PARAMS
from tests.inference.prompts import extended
from tests.tolerances import REORDERED
from visor_jax.data.prompts.sampling import GREEDY, Sampling
from visor_jax.data.prompts.stop_tokens import NOT_FINITE
from visor_jax.inference.confidence import confidence, written_length
from visor_jax.inference.generation import decode as decoding
from visor_jax.inference.generation.decode import decode, decode_scored
from visor_jax.inference.generation.generate import keys_of_rows
from visor_jax.inference.generation.prefill import prefill

# Some of these answers end at once, some later, some never.
EOS, NEW = 24, 5
PROCESSOR = dataclasses.replace(
    tiny_processor.processor(CONFIG, eos_id=EOS), eos_ids=(EOS, 17)
)
BUDGET = BUDGETS[-1]


@pytest.fixture(scope="module")
def batch():
    requests = tiny_processor.requests(6, seed=3)
    samples = [PROCESSOR.sample(request, room=NEW) for request in requests]
    return PROCESSOR.buckets.batch(samples, tiny_processor.LARGE)


@pytest.fixture(scope="module")
def prompts(batch):
    return prefill(MODEL, PARAMS, batch, BUDGET, spare=NEW - 1)


def log_probs_by_full_pass(batch, tokens):
    """Returns (B, U) log-probabilities of these tokens behind the prompts."""
    logits = tiny.forward_static(
        {"params": PARAMS},
        extended(batch, tokens),
        config=CONFIG,
        gates=BUDGET.gates(CONFIG.plan),
    ).logits
    logits = np.asarray(logits, np.float64)
    last = np.where(batch.text_mask, batch.text_positions, -1).argmax(axis=1)
    behind = batch.tokens.shape[1] + np.arange(tokens.shape[1] - 1)
    places = np.stack([np.concatenate([[each], behind]) for each in last])
    seen = np.take_along_axis(logits, places[..., None], axis=1)
    seen = seen - seen.max(axis=-1, keepdims=True)
    every = seen - np.log(np.exp(seen).sum(axis=-1, keepdims=True))
    return np.take_along_axis(every, tokens[..., None], axis=-1)[..., 0]


DRAWS = Sampling(temperature=1.5, top_k=20, repetition_penalty=1.3)
HOW = {
    "greedy": {},
    "drawn": {"sampling": DRAWS, "row_keys": keys_of_rows(jax.random.key(3), 6)},
    "of unlike limits": {"max_new_tokens": [1, 2, 3, 4, 5, 5]},
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_log_probabilities_are_those_of_a_full_pass(batch, prompts, how):
    how = {"max_new_tokens": NEW, "eos_id": (EOS, 17), "pad_id": 0} | how
    tokens, found = decode_scored(MODEL, PARAMS, prompts, **how)
    plain = np.asarray(tokens)
    if "sampling" not in how:
        told = decode(MODEL, PARAMS, prompts, **how)
        np.testing.assert_array_equal(plain, told)
    assert found.dtype == np.float32
    expected = log_probs_by_full_pass(batch, plain)
    limits = np.broadcast_to(how["max_new_tokens"], len(plain))
    lengths = []
    for row, limit in enumerate(limits):
        length = written_length(plain[row, :limit], PROCESSOR)
        lengths.append(length)
        mine = expected[row, :length]
        np.testing.assert_allclose(found[row, :length], mine, **REORDERED)
        assert not np.asarray(found[row, length:]).any()
        ours = confidence(np.asarray(found[row, :length]))
        assert ours == pytest.approx(np.prod(np.exp(mine)) ** (1 / length), rel=1e-5)
    # Some end themselves, with an end token that counts.
    assert len(set(lengths)) > 1


def test_no_program_holds_what_nobody_asks_for(prompts):
    def primitives(is_scored):
        begin = decoding._beginning(prompts, NEW, EOS, 0, GREEDY, None)
        begin = begin.replace(is_scored=is_scored)
        run = lambda params, prompts: decoding._finished(  # noqa: E731
            MODEL, params, prompts, begin
        )
        return str(jax.make_jaxpr(run)(PARAMS, prompts))

    plain, scored = primitives(False), primitives(True)
    assert " log " not in plain
    assert " log " in scored


def test_an_answer_is_as_long_as_its_end_or_stop_string():
    tokens = np.array([7, 30, 9, EOS, 0, 0])
    assert written_length(tokens, PROCESSOR) == 4
    assert written_length(tokens[:3], PROCESSOR) == 3
    assert written_length(tokens, PROCESSOR, stop=("0 9",)) == 3
    assert written_length(tokens, PROCESSOR, stop=("24",)) == 4
    assert written_length(np.array([7, NOT_FINITE, 7]), PROCESSOR) == 2
    several = dataclasses.replace(PROCESSOR, eos_ids=(5, 30))
    assert written_length(tokens, several) == 2


def test_confidence_is_a_number_above_0_and_up_to_1():
    assert confidence(np.log([0.9, 0.4])) == pytest.approx(0.6)
    assert confidence(np.array([1e-7], np.float32)) == 1.0
    assert 0 < confidence(np.array([-2000.0])) < 1e-300
    for wrong in ([], [np.nan], [-1.0, -np.inf]):
        with pytest.raises(ValueError, match="are not the log-probabilities"):
            confidence(np.array(wrong))
