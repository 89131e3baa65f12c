"""Generation against full forward passes; padding, batching, stopping, keys."""

import itertools

import jax
import numpy as np
import pytest

from tests import tiny
from tests.inference.prompts import extended, left_padded, prompts
from visor_jax.inference import decode as decoding
from visor_jax.inference import prefill as prefilling
from visor_jax.inference.decode import answers, decode
from visor_jax.inference.generation import generate, measure_latency
from visor_jax.inference.prefill import prefill
from visor_jax.inference.sampling import Sampling, choose
from visor_jax.models.vlm import VLM

CONFIG = tiny.NETWORKS["untied"]
# Enough noise for the network to say something else after every token.
VARIABLES = tiny.perturbed(tiny.initial_params(CONFIG), jax.random.key(7), scale=0.5)
PARAMS = VARIABLES["params"]
NEW, NEVER, PAD = 6, -1, 39
BUDGETS = list(tiny.every_budget(CONFIG))
FULL = BUDGETS[-1]


def _generate(batch, budget=FULL, *, eos_id=NEVER, count=NEW, **kwargs):
    tokens = generate(
        VLM(CONFIG),
        PARAMS,
        batch,
        budget,
        max_new_tokens=count,
        eos_id=eos_id,
        pad_id=PAD,
        **kwargs,
    )
    return np.asarray(tokens)


def _by_full_passes(batch, budget):
    """Returns greedy tokens, each from a forward pass over everything before it."""
    written = np.zeros((batch.size, NEW), np.int32)
    gates = budget.gates(CONFIG.plan)
    last = np.where(batch.text_mask, batch.text_positions, -1).argmax(axis=1)
    for step in range(NEW):
        whole = extended(batch, written)
        # What is not written yet lies in the future: no mask is needed.
        logits = tiny.forward_static(
            VARIABLES, whole, config=CONFIG, gates=gates
        ).logits
        place = (
            last if step == 0 else np.full_like(last, batch.tokens.shape[1] + step - 1)
        )
        rows = np.arange(batch.size)
        written[:, step] = np.asarray(logits)[rows, place].argmax(axis=-1)
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

    def counted(logits, sampling, keys=None):
        jax.debug.callback(lambda: steps.append(1))
        return choose(logits, sampling, keys)

    monkeypatch.setattr(decoding, "choose", counted)
    decoding._decode.clear_cache()
    _generate(batch, eos_id=eos_id)
    jax.effects_barrier()
    decoding._decode.clear_cache()
    assert len(steps) == free.index(eos_id) + 1 < NEW


def test_one_token_needs_no_decoding():
    batch = prompts(CONFIG)
    np.testing.assert_array_equal(_generate(batch, count=1), _generate(batch)[:, :1])


def test_programs_are_shared_by_equal_shapes():
    batch = prompts(CONFIG)
    _generate(batch)
    programs = prefilling._prefill._cache_size(), decoding._decode._cache_size()
    labelled = batch.replace(image_labels=np.zeros(batch.image_mask.shape, np.int32))
    _generate(left_padded(labelled), eos_id=3)
    assert programs == (
        prefilling._prefill._cache_size(),
        decoding._decode._cache_size(),
    )


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


def test_answers_are_cut_before_the_end_token():
    tokens = jax.numpy.array([[7, 4, 1, 0, 0], [5, 5, 2, 8, 1], [6, 6, 6, 6, 6]])
    assert answers(tokens, 1) == [[7, 4], [5, 5, 2, 8], [6] * 5]


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
            FULL,
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
