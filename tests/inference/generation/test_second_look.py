"""A second look equals one look at everything: logits and what is decoded."""

import dataclasses

import numpy as np
import pytest

from tests import tiny
from tests.data import tiny_llava
from tests.data.tiny_llava import question, random_image
from tests.models.test_crop_subsets import PER_CROP, PROCESSOR, SETTINGS, network
from tests.tolerances import REORDERED
from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket, Buckets
from visor_jax.inference.generation import look_difference as difference
from visor_jax.inference.generation import second_look as looks
from visor_jax.inference.generation.decode import decode
from visor_jax.inference.generation.prefill import prefill
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.vlm import VLM
from visor_jax.token_reduction.registry import reducer_of

WHOLE = [
    PROCESSOR.prompt(question("Why is it?"), images=[random_image(28, 28)]),
    PROCESSOR.prompt(question("?"), images=[random_image(14, 28)]),
    PROCESSOR.prompt(question("Who?"), images=[random_image(42, 10)]),
]
FIRST = [(0, 2), (0,), (0, 3)]
SECOND = [(0, 1, 2, 4), (0, 1, 2), (0, 1, 2, 3)]
LESS = Bucket(crops=2, image_tokens=24, text_tokens=96, corners=4)
MORE = dataclasses.replace(LESS, crops=5, image_tokens=56)
SHAPES = difference.LookShapes(first=LESS, second=MORE, read=48)
BUCKETS = Buckets([LESS, MORE], SETTINGS, pad_id=tiny_llava.PAD)
SPARE = 8

# CROSS, READ and SELF before and behind a SELF layer.
MIXED = network("visor").replace(
    plan=LayerPlan.build(6, cross=(0, 4), read=(1, 5), self_=(2, 3))
)


def part(crops):
    return [w.of_crops(c, PER_CROP) for w, c in zip(WHOLE, crops, strict=True)]


def at_once(config, budget):
    batch = BUCKETS.batch(part(SECOND), MORE)
    params = tiny.params_of(config)["params"]
    return prefill(VLM(config), params, batch, budget, spare=SPARE)


def twice(config, first, budget, *, taps=None):
    """Returns the second look after one in another budget, perhaps with wrong seams."""
    model, params = VLM(config), tiny.params_of(config)["params"]
    batch = BUCKETS.batch(part(FIRST), LESS)
    found, seen = looks.first_look(model, params, batch, first)
    plain = prefill(model, params, batch, first)
    np.testing.assert_allclose(found.logits, plain.logits, **REORDERED)
    taps = config.adapter.conv_kernel if taps is None else taps
    change = difference.look_difference(
        WHOLE, FIRST, SECOND, SHAPES, BUCKETS, taps=taps
    )
    return looks.second_look(model, params, seen, change, budget, spare=SPARE)


def decoded(config, prompts):
    params = tiny.params_of(config)["params"]
    return decode(VLM(config), params, prompts, max_new_tokens=8, eos_id=-1, pad_id=0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("none", "none"),
        ("none", "all"),
        ("sa1:2", "sa1:3"),
        ("sa0+rd1:2", "sa1:3+rd1:2"),
    ],
)
def test_a_second_look_is_one_look_at_everything(first, second):
    """Mixed crops in a batch, CROSS and READ layers, SELF layers on in either look."""
    budgets = [Budget.parse(name, MIXED.plan) for name in (first, second)]
    once, again = at_once(MIXED, budgets[1]), twice(MIXED, *budgets)
    np.testing.assert_allclose(again.logits, once.logits, **REORDERED)
    np.testing.assert_array_equal(decoded(MIXED, again), decoded(MIXED, once))


def test_wrong_seams_and_stale_keys_are_found(monkeypatch):
    """What the test above would miss if it could not fail."""
    none, on = Budget.none(), Budget.all(MIXED.plan)
    once = at_once(MIXED, none).logits
    # Keys beside the new tokens as the first look made them: no tap reaches over.
    wrong = twice(MIXED, none, none, taps=1).logits
    assert np.abs(wrong - once).max() > 1e-3
    # SELF layers that go on from keys of unrefined or less refined tokens.
    once = at_once(MIXED, on).logits
    monkeypatch.setattr(
        LayerPlan, "unrefined_until", lambda plan, gates: plan.num_layers
    )
    stale = twice(MIXED, on, on).logits
    assert np.abs(stale - once).max() > 1e-3


def test_only_what_neither_look_refines_is_kept():
    plan = MIXED.plan
    every = (object(),) * plan.num_layers

    def kept(name):
        gates = Budget.parse(name, plan).gates(plan)
        return looks.kept_layers(plan, gates, every)

    assert kept("none") == (0, 1, 4, 5)
    assert kept("sa1:3") == (0, 1)
    assert kept("read") == (0, 1, 2, 3, 4, 5)
    assert kept("all") == (0, 1)


def test_the_difference_is_made_of_missing_crops_and_seams():
    """Against plain loops over places."""
    taps = 5
    change = difference.look_difference(
        WHOLE, FIRST, SECOND, SHAPES, BUCKETS, taps=taps
    )
    assert change.prompts.pixels.shape[:2] == (3, MORE.crops - LESS.crops)
    befores, afters = part(FIRST), part(SECOND)
    for row, (whole, before, after) in enumerate(
        zip(WHOLE, befores, afters, strict=True)
    ):
        places = change.prompts.image_places[row, : after.num_image_tokens].tolist()
        known = change.known[row, : before.num_image_tokens]
        of_first = before.image_places.tolist()
        assert [places[i] for i in known] == of_first
        new = {p for p in places if p not in of_first}
        made = {p for p in places if any(abs(p - q) <= taps // 2 for q in new)}
        read = {p for p in places if any(abs(p - q) <= taps // 2 for q in made)}
        for name, expected in (("made", made), ("read", read)):
            found = getattr(change, name)[row]
            there = found[found < MORE.image_tokens]
            assert [places[i] for i in there] == sorted(expected)
        missing = [c for c in SECOND[row] if c not in FIRST[row]]
        np.testing.assert_array_equal(
            change.prompts.pixels[row, : len(missing)], whole.crops[missing]
        )


def test_looks_that_do_not_go_on_from_the_first():
    one = WHOLE[:1]

    def change(first, second, shapes=SHAPES):
        return difference.look_difference(
            one, [first], [second], shapes, BUCKETS, taps=7
        )

    with pytest.raises(ValueError, match=r"\[0, 1\] after \[0, 2\]: it must have all"):
        change((0, 2), (0, 1))
    with pytest.raises(ValueError, match="at most 2, and at most 3 more"):
        change((0,), (0, 1, 2, 3, 4))
    small = dataclasses.replace(MORE, image_tokens=20)
    with pytest.raises(ValueError, match="does not hold a look of 4 crops"):
        change((0, 2), (0, 1, 2, 3), dataclasses.replace(SHAPES, second=small))
    with pytest.raises(ValueError, match="there is room for 8"):
        change((0, 2), (0, 1, 2, 3), dataclasses.replace(SHAPES, read=8))
    with pytest.raises(ValueError, match="more crops than the first: 2 after 2"):
        difference.LookShapes(first=LESS, second=LESS)
    model = VLM(MIXED, reducer_of("fastv:average=8"))
    with pytest.raises(ValueError, match="look twice"):
        looks.first_look(model, {}, BUCKETS.batch(part(FIRST), LESS), Budget.none())
