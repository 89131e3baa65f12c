"""Slots: decoding after admission into used ones equals the full forward pass."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import passes, tiny, tolerances
from tests.inference.prompts import extended, left_padded
from visor_jax.data.prompts.sampling import GREEDY
from visor_jax.inference.engine.slots import (
    Admission,
    admit,
    free_slots,
    without_cache,
)
from visor_jax.inference.generation.decode_step import Rules, with_token
from visor_jax.inference.routing.router import features_of
from visor_jax.inference.sampling import RowSampling
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.decoder.token_reducer import KEEP_ALL
from visor_jax.models.vlm import VLM
from visor_jax.ops.masks import TokenTags

CONFIG = tiny.VISOR.replace(
    vision=dataclasses.replace(tiny.VISION, num_layers=1),
    plan=LayerPlan.build(3, cross=(0, 2), self_=(1,)),
)
MODEL, VARIABLES = VLM(CONFIG), tiny.params_of(CONFIG)
NEW = 3
RULES = Rules.of(-1, 0)


@functools.partial(jax.jit, static_argnames=("gates", "method"))
def apply(*arguments, gates=None, method):
    """Returns what a method makes of these; one program per gates and shapes."""
    given = arguments if gates is None else (*arguments, gates)
    return MODEL.apply(VARIABLES, *given, method=method)


@functools.partial(jax.jit, static_argnames="gates")
def rest(trunk, rows, last, *, gates):
    arguments = (trunk, gates, rows, last)
    return MODEL.apply(VARIABLES, *arguments, method=passes.rest_at)


# Row 0 packs two questions after shared text; row 1 has another image and one question.
SAMPLES = (
    tiny.Sample(before=2, image=9, questions=(4, 3)),
    tiny.Sample(image=12, questions=(5,)),
)
# (row, segment) in the order of admission, and their slots; slot 1 stays another's.
ASKED, SLOTS, OTHER = ((0, 2), (1, 1), (0, 1)), (0, 2, 3), 1


def batch():
    return left_padded(tiny.random_batch(CONFIG, SAMPLES))


def own_rows(whole):
    """Returns one row per question, in which the others' text is no more."""
    one = whole.map(lambda x: x[[row for row, _ in ASKED]])
    segments = np.array([[segment] for _, segment in ASKED])
    own = (one.text_segments == 0) | (one.text_segments == segments)
    return one.replace(text_mask=one.text_mask & own)


def last_of(one):
    return np.where(one.text_mask, one.text_positions, -1).argmax(axis=1)


def used_slots(gates, columns, length):
    """Returns slots as others left them: every number random, all of it valid."""
    rng = np.random.default_rng(5)
    slots = free_slots(
        CONFIG,
        gates,
        KEEP_ALL,
        slots=4,
        text_slots=columns,
        image_tokens=batch().image_mask.shape[1],
        new_tokens=NEW,
    )

    def scrambled(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(9), len(x))
        if x.dtype == bool:
            return jnp.ones(x.shape, bool)
        if x.dtype == jnp.int32:
            return jnp.asarray(rng.integers(0, 9, x.shape), jnp.int32)
        return jnp.asarray(rng.normal(size=x.shape), x.dtype)

    slots = jax.tree.map(scrambled, slots)
    return slots.replace(cache=slots.cache.replace(length=jnp.int32(length)))


def admission(one):
    fields = {
        "row": [row for row, _ in ASKED],
        "last": last_of(one).tolist(),
        "segment": [segment for _, segment in ASKED],
        "slot": list(SLOTS),
        "limit": [NEW] * len(ASKED),
        "draw": [7, 8, 9],
        "seed": [-1, -1, -1],
    }
    # One more place than questions: it must change nothing.
    padded = {
        name: jnp.array([*v, 4 if name == "slot" else 0]) for name, v in fields.items()
    }
    return Admission(
        **padded,
        sampling=jax.tree.map(jnp.asarray, RowSampling.of([GREEDY] * (len(ASKED) + 1))),
        also=jnp.full((len(ASKED) + 1, 1), -1),
        count=jnp.int32(len(ASKED)),
    )


BUDGETS = list(tiny.every_budget(CONFIG))
# The ring's next column: after all of the prompt, in the middle of it, at the start.
CASES = [*((budget, 5) for budget in BUDGETS), (BUDGETS[-1], 12), (BUDGETS[-1], 0)]


@pytest.mark.parametrize(("budget", "length"), CASES, ids=str)
def test_decoding_in_used_slots_equals_the_full_forward_pass(budget, length):
    gates, whole = budget.gates(CONFIG.plan), batch()
    one = own_rows(whole)
    rng = np.random.default_rng(3)
    new = rng.integers(0, CONFIG.decoder.vocab_size, (len(ASKED), NEW), np.int32)
    full = tiny.on_device(extended(one, new))
    expected = np.asarray(apply(full, gates=gates, method=VLM.__call__).logits)

    columns = whole.tokens.shape[1] + NEW
    slots, asked = used_slots(gates, columns, length % columns), admission(one)
    others = jax.tree.map(lambda x: np.asarray(x[OTHER]), slots.cache.layers)
    trunk = apply(tiny.on_device(whole), method=passes.trunk)
    logits, cache = rest(trunk, asked.row, asked.last, gates=gates)
    rows = np.arange(len(ASKED))
    np.testing.assert_allclose(
        logits[:-1], expected[rows, last_of(one)], **tolerances.REORDERED
    )
    tokens = jnp.asarray(whole.tokens)
    key = jax.random.key(0)
    slots, first = jax.jit(admit)(slots, asked, logits, tokens, cache, key)
    light = with_token(without_cache(slots), *first, RULES)
    slots = light.replace(cache=slots.cache, gates=slots.gates)
    for before, after in zip(
        jax.tree.leaves(others), jax.tree.leaves(slots.cache.layers), strict=True
    ):
        np.testing.assert_array_equal(before, after[OTHER])
    places = np.array(SLOTS)
    assert slots.written[places, 0].tolist() == logits[:-1].argmax(axis=1).tolist()
    assert slots.count[places].tolist() == [1] * 3
    check_steps(slots, gates, new, expected[:, -NEW:])


def check_steps(slots, gates, new, expected):
    """Feeds these tokens to the admitted slots and compares the logits."""
    cache, places = slots.cache, np.array(SLOTS)
    for step in range(NEW):
        tokens = np.zeros((4, 1), np.int32)
        tokens[places, 0] = new[:, step]
        tags = TokenTags(
            order=slots.order[:, None] + step,
            segments=slots.segments[:, None],
            valid=jnp.ones((4, 1), bool),
        )
        logits, cache = apply(
            jnp.asarray(tokens), tags, cache, gates=gates, method=VLM.decode
        )
        columns = cache.text.valid.shape[1]
        cache = cache.replace(length=cache.length % columns)
        np.testing.assert_allclose(
            logits[places, 0], expected[:, step], **tolerances.REORDERED
        )


def test_a_router_sees_each_request_by_itself():
    whole, one = batch(), own_rows(batch())
    trunk = apply(tiny.on_device(whole), method=passes.trunk)
    last = dict(zip(ASKED, last_of(one).tolist(), strict=True))
    # Row 1 has one question: its second place is not used.
    table = jnp.array([[last[0, 1], last[0, 2]], [last[1, 1], 0]])
    found = features_of(trunk, table)
    alone = apply(tiny.on_device(one), method=passes.trunk)
    for place, question in ((0, (0, 1)), (1, (0, 2)), (2, (1, 1))):
        row = ASKED.index(question)
        text = np.asarray(alone.text.hidden)[row, last_of(one)[row]]
        np.testing.assert_allclose(
            found.routing[place, 0], text, **tolerances.REORDERED
        )
        image = np.asarray(alone.image.hidden)[row][one.image_mask[row]]
        np.testing.assert_allclose(
            found.image[place, 0], image.mean(axis=0), **tolerances.REORDERED
        )
