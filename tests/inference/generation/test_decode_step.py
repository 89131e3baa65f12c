"""The contract of the ways of decoding: whole answers, streams, the engine's slots.

Every prompt is answered in each way, beside others and alone, and always says the same:
what `plain` says, which knows neither cache nor state, but one full forward pass per
token, and NumPy for penalty, cuts, end tokens and limit.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.inference import tiny_processor
from tests.inference.engine.tiny_engine import BUDGETS, CONFIG, MODEL, PARAMS, engine
from tests.inference.generation import drawn_tokens
from tests.inference.prompts import extended
from visor_jax.data.prompts.sampling import GREEDY, Sampling
from visor_jax.inference.engine.slots import free_slots
from visor_jax.inference.generation import decode as decoding
from visor_jax.inference.generation.decode_step import Rules, used_tokens, with_token
from visor_jax.inference.generation.generate import generate, stream
from visor_jax.inference.routing.router import fixed
from visor_jax.inference.sampling import RowSampling
from visor_jax.models.decoder.token_reducer import KEEP_ALL
from visor_jax.runtime import bounded_jit
from visor_jax.runtime.device_cache import Held

COMPILED = "/jax/core/compile/backend_compile_duration"
# Some of these answers end at the first token, some later, some never.
EOS, PAD, NEW = (24, 17, -1), 5, 5
PROCESSOR = dataclasses.replace(
    tiny_processor.processor(CONFIG, eos_id=EOS[0]), eos_ids=EOS, pad_id=PAD
)
REQUESTS = tiny_processor.requests(6, seed=3)
KEY = jax.random.key(3)
PENALTY = Sampling(repetition_penalty=1.4, also_used=(3,))
DRAWS = Sampling(temperature=1.5, top_k=20, repetition_penalty=1.3)
CASES = {
    "greedy, all off": (GREEDY, BUDGETS[0]),
    "greedy, all on": (GREEDY, BUDGETS[-1]),
    "penalty": (PENALTY, BUDGETS[-1]),
    "draws": (DRAWS, BUDGETS[-1]),
}


@functools.cache
def batch():
    samples = [PROCESSOR.sample(request, room=NEW) for request in REQUESTS]
    return PROCESSOR.buckets.batch(samples, tiny_processor.LARGE)


def plain_token(logits, before, sampling, key):
    """Returns one row's next token; before: all text tokens so far."""
    logits = logits.astype(np.float64)
    used = np.isin(np.arange(len(logits)), [*before, *sampling.also_used])
    penalty = sampling.repetition_penalty
    lowered = np.where(logits < 0, logits * penalty, logits / penalty)
    logits = np.where(used, lowered, logits)
    if sampling.is_greedy:
        return logits.argmax()
    logits = logits / sampling.temperature
    logits[logits < np.sort(logits)[-sampling.top_k]] = -np.inf
    return jax.random.categorical(key, jnp.asarray(logits, jnp.float32))


def plain(sampling, budget):
    """Returns (rows, NEW) tokens: an end token is the last one, padding follows it."""
    whole, gates = batch(), budget.gates(CONFIG.plan)
    written = np.full((whole.size, NEW), PAD, np.int32)
    last = np.where(whole.text_mask, whole.text_positions, -1).argmax(axis=1)
    for step in range(NEW):
        # What is not written yet lies in the future: no mask is needed.
        logits = tiny.forward_static(
            {"params": PARAMS}, extended(whole, written), config=CONFIG, gates=gates
        ).logits
        for row in range(whole.size):
            if set(written[row, :step].tolist()) & set(EOS):
                continue
            place = last[row] if step == 0 else whole.tokens.shape[1] + step - 1
            prompt = whole.tokens[row][whole.text_mask[row]]
            written[row, step] = plain_token(
                np.asarray(logits[row, place]),
                [*prompt, *written[row, :step]],
                sampling,
                jax.random.fold_in(jax.random.fold_in(KEY, row), step),
            )
    return written


def settings(sampling, rows=slice(None)):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(len(REQUESTS)))
    return {
        "max_new_tokens": NEW,
        "eos_id": EOS,
        "pad_id": PAD,
        "sampling": sampling,
        "key": keys[rows],
    }


@pytest.mark.parametrize(("sampling", "budget"), CASES.values(), ids=CASES)
def test_every_way_of_decoding_says_the_same(sampling, budget):
    expected = plain(sampling, budget)
    ends = np.isin(expected, EOS)
    assert 0 < ends.any(axis=1).sum() < len(expected)
    network = (MODEL, PARAMS)
    together = generate(*network, batch(), budget, **settings(sampling))
    np.testing.assert_array_equal(together, expected)

    columns = list(stream(*network, batch(), budget, **settings(sampling)))
    np.testing.assert_array_equal(np.stack(columns, axis=1), expected)

    for row in range(len(REQUESTS)):
        rows = slice(row, row + 1)
        one = batch().map(lambda x, rows=rows: x[rows])
        alone = generate(*network, one, budget, **settings(sampling, rows))
        np.testing.assert_array_equal(alone, expected[rows])

    key = None if sampling.is_greedy else KEY
    asked = engine(fixed(budget), processor=PROCESSOR, sampling=sampling, key=key)
    for row, answer in enumerate(asked.answer_all(REQUESTS)):
        length = ends[row].argmax() if ends[row].any() else NEW
        assert answer.tokens == tuple(expected[row, :length])
        assert answer.steps == min(length, NEW - 1)


def some_state(sampling):
    """Returns five rows: new, in the middle, at their limit, elsewhere, finished."""
    rules = Rules.of(EOS, PAD)
    state = free_slots(
        CONFIG,
        BUDGETS[0].gates(CONFIG.plan),
        KEEP_ALL,
        slots=5,
        text_slots=9,
        image_tokens=4,
        new_tokens=NEW,
    )
    return rules, state.replace(
        sampling=RowSampling.of([sampling] * 5),
        newest=jnp.array([1, 2, 3, 4, 6]),
        order=jnp.array([7, 9, 11, 8, 12]),
        count=jnp.array([0, 2, 3, 1, 2]),
        limit=jnp.array([5, 5, 4, 5, 5]),
        finished=jnp.array([False, False, False, False, True]),
        written=jnp.full((5, NEW), -9),
    )


WRITING = np.array([True, True, True, False, False])


def test_only_rows_that_write_change():
    rules, state = some_state(GREEDY)
    logits = np.zeros((5, CONFIG.decoder.vocab_size), np.float32)
    tokens = [8, EOS[1], 9, 7, 7]
    logits[np.arange(5), tokens] = 1
    found = with_token(state, jnp.asarray(logits), jnp.asarray(WRITING), rules)
    # A finished row gives padding; one that is elsewhere keeps its token.
    assert found.newest.tolist() == [8, EOS[1], 9, 4, PAD]
    assert found.order.tolist() == [8, 10, 12, 8, 12]
    assert found.count.tolist() == [1, 3, 4, 1, 2]
    # An end token, and the limit.
    assert found.finished.tolist() == [False, True, True, False, True]
    expected = np.full((5, NEW), -9)
    expected[[0, 1, 2], [0, 2, 3]] = tokens[:3]
    np.testing.assert_array_equal(found.written, expected)


def test_a_draw_depends_on_the_key_and_count_of_its_row():
    rules, state = some_state(Sampling(temperature=2.0))
    shape = (5, CONFIG.decoder.vocab_size)
    logits = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = with_token(state, jnp.asarray(logits), jnp.asarray(WRITING), rules)
    for row in range(3):
        key = jax.random.fold_in(state.keys[row], state.count[row])
        assert found.newest[row] == jax.random.categorical(key, logits[row] / 2)
    # Keys are for ever: the next draw folds in the next count.
    assert (jax.random.key_data(found.keys) == jax.random.key_data(state.keys)).all()


def test_what_is_used_are_the_prompt_and_the_tokens_written():
    rules, state = some_state(PENALTY)
    vocabulary = CONFIG.decoder.vocab_size
    prompts = jnp.array([[0, 9, -1], [-1, -1, -1], [39, 39, 2], [1, 1, 1], [2, -1, 2]])
    also = jnp.array([PENALTY.also_used] * 5)
    used = used_tokens(prompts, also, vocabulary)
    found = [np.flatnonzero(row).tolist() for row in np.asarray(used)]
    assert found == [[0, 3, 9], [3], [2, 3, 39], [1, 3], [2, 3]]
    logits = np.zeros((5, vocabulary), np.float32)
    logits[:, 8] = 1
    state = with_token(
        state.replace(used=used), jnp.asarray(logits), jnp.asarray(WRITING), rules
    )
    found = [np.flatnonzero(row).tolist() for row in np.asarray(state.used)]
    assert found == [[0, 3, 8, 9], [3, 8], [2, 3, 8, 39], [1, 3], [2, 3]]


def test_rows_of_one_state_are_chosen_each_in_its_own_way():
    """...and draw what was drawn when every setting had a program of its own."""
    rows, new = len(REQUESTS), drawn_tokens.NEW
    with np.load(drawn_tokens.RECORDING) as recording:
        recorded = [recording[name] for name in recording.files]
    order = [row % len(recorded) for row in range(2 * rows)]
    settings_of_rows = [Sampling(**drawn_tokens.SETTINGS[i]) for i in order]
    expected = np.stack([recorded[i][row] for row, i in enumerate(order)])
    found = drawn_tokens.drawn(settings_of_rows)
    np.testing.assert_array_equal(found, expected)
    limits = [1 + row % new for row in range(2 * rows)]
    found = drawn_tokens.drawn(settings_of_rows, max_new_tokens=limits)
    width = max(limits)
    for row, limit in enumerate(limits):
        assert found[row].tolist() == [
            *expected[row, :limit],
            *[drawn_tokens.PAD] * (width - limit),
        ]


@pytest.mark.parametrize("number", range(len(drawn_tokens.SETTINGS)))
def test_draws_are_those_of_a_program_for_each_setting(number):
    with np.load(drawn_tokens.RECORDING) as recording:
        expected = recording[recording.files[number]]
    found = drawn_tokens.drawn(Sampling(**drawn_tokens.SETTINGS[number]))
    np.testing.assert_array_equal(found, expected)


def test_any_number_of_lengths_leaves_few_programs(monkeypatch):
    """...and those that are used all the time are not compiled again."""
    count = bounded_jit.ProgramCount(5, lambda line: None)
    few = Held(0, most=5, let_go=count.add)
    monkeypatch.setattr(bounded_jit, "_programs", few)
    whole = drawn_tokens.drawn(GREEDY)
    for length in (*range(2, drawn_tokens.NEW), 3, 4):
        found = drawn_tokens.drawn(GREEDY, max_new_tokens=length)
        np.testing.assert_array_equal(found, whole[:, :length])
    assert len(few) == 5
    assert count.let_go > 3
    assert decoding._decode.cache_size() == 1


def test_no_setting_is_a_program_of_its_own():
    """...nor is a number of tokens, but for a tiny one that cuts its columns."""
    rng = np.random.default_rng(0)
    drawn_tokens.drawn(Sampling(temperature=1.0))
    before = decoding._decode.cache_size()
    compiled = []
    listener = lambda name, *_, **__: compiled.append(name == COMPILED)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    for number in range(300):
        asked = Sampling(
            temperature=float(rng.uniform(0.1, 3)),
            top_k=int(rng.integers(1, 60)) if number % 2 else None,
            top_p=float(rng.uniform(0.1, 1)) if number % 3 else None,
            repetition_penalty=float(rng.uniform(0.5, 2)) if number % 5 else 1.0,
        )
        drawn_tokens.drawn(asked)
    jax.monitoring.unregister_event_duration_listener(listener)
    assert decoding._decode.cache_size() == before
    assert not any(compiled)
