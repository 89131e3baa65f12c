"""Generation against full forward passes; padding, batching, stopping, keys."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from tests import tiny
from tests.inference.prompts import extended, left_padded, prompts
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.data.prompts.stop_tokens import cut_at_end
from visor_jax.inference.generation import decode as decoding
from visor_jax.inference.generation import decode_step
from visor_jax.inference.generation import prefill as prefilling
from visor_jax.inference.generation.decode import decode
from visor_jax.inference.generation.generate import (
    generate,
    keys_of_rows,
    measure_latency,
    stream,
)
from visor_jax.inference.generation.prefill import check_context, prefill
from visor_jax.inference.sampling import sample_token
from visor_jax.models.vlm import VLM

CONFIG = tiny.NETWORKS["untied"]
# Enough noise for the network to say something else after every token.
VARIABLES = tiny.perturbed(tiny.initial_params(CONFIG), jax.random.key(7), scale=0.5)
PARAMS = VARIABLES["params"]
NEW, NEVER, PAD = 6, -1, 39
BUDGETS = list(tiny.every_budget(CONFIG))
FULL = BUDGETS[-1]


def _settings(eos_id, count, kwargs):
    return {"max_new_tokens": count, "eos_id": eos_id, "pad_id": PAD} | kwargs


def _generate(batch, budget=FULL, *, eos_id=NEVER, count=NEW, **kwargs):
    settings = _settings(eos_id, count, kwargs)
    return np.asarray(generate(VLM(CONFIG), PARAMS, batch, budget, **settings))


def _stream(batch, budget=FULL, *, eos_id=NEVER, count=NEW, **kwargs):
    settings = _settings(eos_id, count, kwargs)
    return stream(VLM(CONFIG), PARAMS, batch, budget, **settings)


def _by_full_passes(batch, budget, choose=lambda row, logits: logits.argmax()):
    """Returns tokens, each chosen from a forward pass over everything before it."""
    written = np.zeros((batch.size, NEW), np.int32)
    gates = budget.gates(CONFIG.plan)
    last = np.where(batch.text_mask, batch.text_positions, -1).argmax(axis=1)
    for step in range(NEW):
        whole = extended(batch, written)
        # What is not written yet lies in the future: no mask is needed.
        logits = np.asarray(
            tiny.forward_static(VARIABLES, whole, config=CONFIG, gates=gates).logits
        )
        for row in range(batch.size):
            place = last[row] if step == 0 else batch.tokens.shape[1] + step - 1
            before = batch.tokens[row][batch.text_mask[row]], written[row, :step]
            written[row, step] = choose(np.concatenate(before), logits[row, place])
    return written


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_greedy_tokens_are_those_of_full_passes(budget):
    batch = prompts(CONFIG)
    expected = _by_full_passes(batch, budget)
    # The test means something only if the network says different things.
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(_generate(batch, budget), expected)
    np.testing.assert_array_equal(_generate(left_padded(batch), budget), expected)


def test_budgets_are_told_apart():
    batch = prompts(CONFIG)
    first, second = (_generate(batch, budget) for budget in BUDGETS)
    assert (first != second).any()


def test_a_batch_equals_its_rows_alone():
    batch = prompts(CONFIG)
    together = _generate(batch)
    for row in range(batch.size):
        one = batch.map(lambda x, row=row: x[row : row + 1])
        np.testing.assert_array_equal(_generate(one)[0], together[row])


def test_rows_stop_at_their_end_token_and_pad_afterwards():
    batch = prompts(CONFIG)
    free = _generate(batch)
    for eos_id in np.unique(free):
        stopped = _generate(batch, eos_id=int(eos_id))
        for row, tokens in zip(stopped, free.tolist(), strict=True):
            cut = tokens.index(eos_id) + 1 if eos_id in tokens else NEW
            assert row.tolist() == tokens[:cut] + [PAD] * (NEW - cut)


def test_the_loop_ends_when_all_rows_have(monkeypatch):
    batch = prompts(CONFIG).map(lambda x: np.repeat(x[:1], len(x), axis=0))
    free = _generate(batch)[0].tolist()
    eos_id = next(t for i, t in enumerate(free) if i > 0 and t not in free[:i])
    steps = []

    def counted(*inputs):
        jax.debug.callback(lambda: steps.append(1))
        return sample_token(*inputs)

    monkeypatch.setattr(decode_step, "sample_token", counted)
    _forget_programs()
    _generate(batch, eos_id=eos_id)
    jax.effects_barrier()
    _forget_programs()
    assert len(steps) == free.index(eos_id) + 1 < NEW


def _forget_programs():
    for program in (decoding._decode, decoding._begin, decoding._step):
        program.clear_cache()


def _programs():
    return tuple(
        program.cache_size()
        for program in (
            prefilling._prefill,
            decoding._decode,
            decoding._begin,
            decoding._step,
        )
    )


def test_one_token_needs_no_decoding():
    batch = prompts(CONFIG)
    np.testing.assert_array_equal(_generate(batch, count=1), _generate(batch)[:, :1])


def test_programs_are_shared_by_equal_shapes():
    batch = prompts(CONFIG)
    _generate(batch)
    programs = _programs()
    labelled = batch.replace(image_labels=np.zeros(batch.image_mask.shape, np.int32))
    _generate(left_padded(labelled), eos_id=3)
    assert programs == _programs()


def test_random_sampling_depends_on_key_and_row_alone():
    batch, key = prompts(CONFIG), jax.random.key(5)
    sampling = Sampling(temperature=3.0, top_k=20)
    first = _generate(batch, sampling=sampling, key=key)
    again = _generate(left_padded(batch), sampling=sampling, key=key)
    np.testing.assert_array_equal(first, again)
    other = _generate(batch, sampling=sampling, key=jax.random.key(6))
    assert (first != other).any()
    # A key for every token: no row repeats itself for lack of one.
    assert all(len(set(row)) > 1 for row in first.tolist())
    assert any(a != b for a, b in itertools.pairwise(first.tolist()))


def test_any_of_several_end_tokens_ends_a_row():
    batch = prompts(CONFIG)
    free = _generate(batch)
    ends = (int(free[0, 1]), int(free[1, 2]), NEVER)
    stopped = _generate(batch, eos_id=ends)
    cut = cut_at_end(free, ends)
    assert cut_at_end(stopped, ends) == cut
    assert {len(row) for row in cut} > {1}
    for row, tokens in zip(stopped, cut, strict=True):
        # The end token, if there is one, then padding.
        assert (row[len(tokens) + 1 :] == PAD).all()
    np.testing.assert_array_equal(_generate(batch, eos_id=()), free)


@pytest.mark.parametrize("penalty", [1.7, 0.6])
def test_repetition_penalty_counts_prompt_and_answer(penalty):
    batch = prompts(CONFIG)

    def lowest(before, logits):
        used = np.isin(np.arange(len(logits)), before)
        lowered = np.where(logits < 0, logits * penalty, logits / penalty)
        return np.where(used, lowered, logits).argmax()

    expected = _by_full_passes(batch, FULL, lowest)
    sampling = Sampling(repetition_penalty=penalty)
    assert (expected != _generate(batch)).any()
    for padded in (batch, left_padded(batch)):
        np.testing.assert_array_equal(_generate(padded, sampling=sampling), expected)


def test_stream_yields_what_generate_returns():
    batch, key = prompts(CONFIG), jax.random.key(5)
    free = _generate(batch)
    ends = [int(row[i]) for row, i in zip(free, (0, 2, 3), strict=True)]
    for settings in (
        {},
        {"eos_id": ends},
        {"sampling": Sampling(temperature=2.0, repetition_penalty=1.5), "key": key},
    ):
        whole = _generate(batch, **settings)
        columns = list(_stream(batch, **settings))
        assert all(column.shape == (batch.size,) for column in columns)
        streamed = np.stack(columns, axis=1)
        np.testing.assert_array_equal(streamed, whole[:, : len(columns)])
        # It ends with the last row, not later.
        assert (whole[:, len(columns) :] == PAD).all()
        assert (streamed[:, -1] != PAD).any()


def test_a_stream_compiles_no_step_anew():
    batch = prompts(CONFIG)
    tokens = _stream(batch)
    next(tokens)
    next(tokens)
    programs = _programs()
    assert len(list(tokens)) == NEW - 2
    assert programs == _programs()


def test_mistakes_of_a_stream_are_told_at_once():
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        _stream(prompts(CONFIG), count=0)
    with pytest.raises(ValueError, match="give it a key"):
        _stream(prompts(CONFIG), sampling=Sampling(temperature=1.0))


def test_prompts_beyond_the_context_are_named():
    batch = prompts(CONFIG)
    lengths = np.where(batch.text_mask, batch.text_positions, -1).max(axis=1) + 1
    limit = int(np.sort(lengths)[1]) + NEW
    decoder = dataclasses.replace(CONFIG.decoder, max_positions=limit)
    model = VLM(CONFIG.replace(decoder=decoder))
    too_long = int(lengths.argmax())
    with pytest.raises(
        ValueError,
        match=rf"max_new_tokens=6 exceed .* context of {limit} tokens: "
        rf"row {too_long} \({lengths.max()} tokens\)\. Shorten",
    ):
        generate(model, PARAMS, batch, FULL, **_settings(NEVER, NEW, {}))
    check_context(batch, NEW, int(lengths.max()) + NEW)


def test_a_row_with_its_own_key_draws_the_same_anywhere():
    batch, sampling = prompts(CONFIG), Sampling(temperature=3.0)
    keys = jax.random.split(jax.random.key(1), batch.size)
    together = _generate(batch, sampling=sampling, key=keys)
    order = np.array([2, 0, 1])
    moved = _generate(batch.map(lambda x: x[order]), sampling=sampling, key=keys[order])
    np.testing.assert_array_equal(moved, together[order])
    with pytest.raises(
        ValueError, match=r"3 prompts need one key or 3 keys, got .* .2,"
    ):
        _generate(batch, sampling=sampling, key=keys[:2])


def test_rows_of_one_key_do_not_depend_on_their_number():
    few, many = (keys_of_rows(jax.random.key(3), rows) for rows in (2, 5))
    data = jax.random.key_data(many)
    np.testing.assert_array_equal(jax.random.key_data(few), data[:2])
    assert len(np.unique(data, axis=0)) == 5


def test_tokens_outside_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"pad_id=40 .* vocabulary of 40 tokens"):
        _generate(prompts(CONFIG), pad_id=40)
    sampling = Sampling(repetition_penalty=2.0, also_used=(40,))
    with pytest.raises(ValueError, match=r"also_used=\(40,\)"):
        _generate(prompts(CONFIG), sampling=sampling)


def test_rows_that_cannot_be_continued_are_named():
    batch = prompts(CONFIG)
    empty = batch.text_mask.copy()
    empty[1] = False
    with pytest.raises(ValueError, match=r"rows \[1\] have no text"):
        _generate(batch.replace(text_mask=empty))
    packed = tiny.random_batch(CONFIG, [tiny.Sample(image=4, questions=(3, 2))])
    with pytest.raises(ValueError, match=r"rows \[0\] pack several questions"):
        _generate(packed)
    late = tiny.random_batch(CONFIG, [tiny.Sample(before=2, image=4)])
    with pytest.raises(ValueError, match=r"rows \[0\] end with the image"):
        _generate(late)


def test_impossible_lengths_and_missing_keys_are_refused():
    batch = prompts(CONFIG)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        _generate(batch, count=0)
    with pytest.raises(ValueError, match="give it a key"):
        _generate(batch, sampling=Sampling(temperature=1.0))
    prefilled = prefill(VLM(CONFIG), PARAMS, batch, FULL, spare=NEW - 1)
    with pytest.raises(ValueError, match=r"max_new_tokens=7 must lie in 1\.\.6"):
        decode(
            VLM(CONFIG),
            PARAMS,
            prefilled,
            max_new_tokens=NEW + 1,
            eos_id=NEVER,
            pad_id=PAD,
        )


def test_latency_is_measured_for_every_part():
    batch = prompts(CONFIG)
    latency = measure_latency(VLM(CONFIG), PARAMS, batch, FULL, max_new_tokens=NEW)
    assert latency.prefill > 0
    assert latency.per_token > 0


def test_text_alone_can_be_continued():
    batch = prompts(CONFIG)
    batch = batch.replace(image_mask=np.zeros_like(batch.image_mask))
    np.testing.assert_array_equal(_generate(batch), _by_full_passes(batch, FULL))
