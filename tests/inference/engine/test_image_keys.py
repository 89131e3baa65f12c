"""An image's keys and values serve every prompt that begins alike up to its end."""

import functools

import jax
import numpy as np
import pytest

from tests import passes, tiny, tolerances
from tests.inference import tiny_processor
from tests.inference.engine import test_slots
from tests.inference.engine.test_slots import admission, apply, batch, own_rows, rest
from tests.inference.engine.tiny_engine import alone, engine, scripted
from tests.inference.tiny_processor import Picture
from visor_jax.data.prompts.request import Request
from visor_jax.inference.engine.program_keys import all_keys

PLAN, BUDGETS = test_slots.CONFIG.plan, test_slots.BUDGETS


@functools.partial(jax.jit, static_argnames="gates")
def text_alone(trunk, images, rows, last, *, gates):
    arguments = (trunk, gates, rows, last, images)
    model = test_slots.MODEL
    return model.apply(test_slots.VARIABLES, *arguments, method=passes.rest_at)


def with_other_questions(whole, changed):
    """Returns the batch with other tokens where `changed` (of a batch) says so."""
    words = np.where(changed, 39 - whole.tokens, whole.tokens)
    return whole.replace(tokens=words.astype(np.int32))


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_text_against_kept_images_equals_the_full_prefill(budget):
    """...of prompts with text before the image, none, and several questions."""
    gates, whole = budget.gates(PLAN), batch()
    asked = admission(own_rows(whole))
    other = with_other_questions(whole, whole.text_segments > 0)
    before, now = (
        apply(tiny.on_device(each), method=passes.trunk) for each in (whole, other)
    )
    _, kept = rest(before, asked.row, asked.last, gates=gates)
    images = tuple(layer.image for layer in kept.layers[PLAN.trunk_length :])
    expected, cache = rest(now, asked.row, asked.last, gates=gates)
    found, made = text_alone(now, images, asked.row, asked.last, gates=gates)
    np.testing.assert_allclose(found, expected, **tolerances.REORDERED)
    valid = np.asarray(whole.text_mask)
    for one, two in zip(made.layers, cache.layers, strict=True):
        assert (one.image is None) == (two.image is None)
        for x, y in zip(
            jax.tree.leaves(one.text), jax.tree.leaves(two.text), strict=True
        ):
            np.testing.assert_allclose(x[valid], y[valid], **tolerances.REORDERED)
        for x, y in zip(
            jax.tree.leaves(one.image), jax.tree.leaves(two.image), strict=True
        ):
            np.testing.assert_allclose(x, y, **tolerances.REORDERED)
    assert made.length == cache.length


def test_text_before_the_image_is_part_of_what_they_depend_on():
    """...or the key would not have to hold it."""
    budget = BUDGETS[-1]
    gates, whole = budget.gates(PLAN), batch()
    asked = admission(own_rows(whole))
    # Row 0 begins with text that its image sees.
    other = with_other_questions(whole, whole.text_segments == 0)
    caches = [
        rest(
            apply(tiny.on_device(each), method=passes.trunk),
            asked.row,
            asked.last,
            gates=gates,
        )[1]
        for each in (whole, other)
    ]
    first, second = (np.asarray(c.layers[2].image.keys) for c in caches)
    assert np.abs(first[0] - second[0]).max() > 1e-2
    np.testing.assert_array_equal(first[1], second[1])


def logged(asked, monkeypatch):
    """Returns the list that the kinds of programs go to as they are called."""
    calls, get = [], asked.programs._get
    monkeypatch.setattr(
        asked.programs, "_get", lambda key, trace: calls.append(key) or get(key, trace)
    )
    return calls


def test_later_questions_find_an_image_behind_the_same_text(monkeypatch):
    asked = engine(scripted())
    calls = logged(asked, monkeypatch)
    picture, other = Picture(seed=3, tokens=11), Picture(seed=4, tokens=11)

    def ask(before, questions, picture=picture):
        calls.clear()
        requests = [Request(f"{before} <image> {q}", [picture]) for q in questions]
        found = asked.answer_all(requests)
        for answer, request in zip(found, requests, strict=True):
            assert answer.tokens == alone(request, answer.budget)
        always = {"prefill_trunk", "first_tokens", "decode", "encode"}
        kinds = {call[0] for call in calls} - always
        # Who finds the image behind the trunk pays for text alone.
        behind = set(range(PLAN.trunk_length, PLAN.num_layers))
        finds = [behind <= set(answer.at_hand) for answer in found]
        assert all(finds) == (kinds == {"prefill_text"})
        return kinds

    # Words that ask for the one budget or the other.
    assert ask("6 2", ["5 3", "7 1 9"]) == {"prefill"}
    assert ask("6 2", ["9 9", "3", "8 7"]) == {"prefill_text"}
    assert ask("6 2", ["8"]) == {"prefill"}
    assert ask("6 2", ["30 2", "4 31"]) == {"prefill_text"}
    # Turns of a conversation: what was said is text behind the image.
    assert ask("6 2", ["9 9 12 31 3 5"]) == {"prefill_text"}
    assert ask("6 3", ["9"]) == {"prefill"}
    assert ask("", ["9"]) == {"prefill"}
    assert ask("6 2", ["9"], other) == {"prefill"}
    # New and known images in one group.
    requests = [Request(f"<image> {n}", [Picture(seed=5, tokens=n)]) for n in (5, 7)]
    asked.answer_all(requests[:1])
    calls.clear()
    for answer, request in zip(asked.answer_all(requests), requests, strict=True):
        assert answer.tokens == alone(request, answer.budget)
    assert {"prefill", "prefill_text"} <= {call[0] for call in calls}


def test_nothing_is_kept_where_that_is_wished():
    asked = engine(scripted(), images_kept=0)
    keys = all_keys(asked.shapes, [tiny_processor.LARGE], asked.router.budgets)
    assert "encode" in {key[0] for key in keys}
    assert "prefill_text" not in {key[0] for key in keys}
