"""What a cascade answers, told without engine and cache, and what it leaves behind.

Both budgets' answers are those of the plain path; confidences are NumPy's, of one full
forward pass over prompts and first answers.
"""

import dataclasses
import functools

import numpy as np
import pytest

from tests import tiny
from tests.inference import tiny_processor
from tests.inference.engine.tiny_engine import (
    BUDGETS,
    CONFIG,
    ENGINE_CONFIG,
    EOS,
    MODEL,
    PARAMS,
    PROCESSOR,
    engine,
)
from tests.inference.prompts import extended
from tests.inference.tiny_processor import Picture
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.stop_tokens import cut_at_end
from visor_jax.inference.generation.generate import generate
from visor_jax.inference.routing.cascade import Cascade
from visor_jax.inference.routing.router import CascadeRouter

FIRST, SECOND = BUDGETS[0], BUDGETS[-1]
ROWS = 16
SMALL = dataclasses.replace(ENGINE_CONFIG, rows=1, images_at_once=1)
ABOUT_ONE = ("5 3", "7", "1 2 3", "9 9", "4 31 2", "8", "30 2", "12")
REQUESTS = [
    *tiny_processor.requests(8),
    *(Request(f"<image> {text}", [Picture(seed=50, tokens=11)]) for text in ABOUT_ONE),
]


@dataclasses.dataclass(frozen=True)
class ByHand:
    """Answers of REQUESTS in both budgets, and how sure the first ones are."""

    first: list
    second: list
    sure: np.ndarray

    @property
    def threshold(self):
        """Between the least sure half and the others."""
        ascending = np.sort(self.sure)[ROWS // 2 - 1 : ROWS // 2 + 1]
        assert ascending[1] > 1.001 * ascending[0]
        return float(ascending.mean())


@functools.cache
def by_hand():
    samples = [PROCESSOR.sample(request, room=5) for request in REQUESTS]
    batch = PROCESSOR.buckets.batch(samples, tiny_processor.LARGE)
    how = {"max_new_tokens": 5, "eos_id": EOS, "pad_id": 0}
    first, second = (
        np.asarray(generate(MODEL, PARAMS, batch, budget, **how))
        for budget in (FIRST, SECOND)
    )
    logits = tiny.forward_static(
        {"params": PARAMS},
        extended(batch, first),
        config=CONFIG,
        gates=FIRST.gates(CONFIG.plan),
    ).logits
    last = np.where(batch.text_mask, batch.text_positions, -1).argmax(axis=1)
    sure = []
    for row, tokens in enumerate(first.tolist()):
        tokens = tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens
        places = [last[row], *(batch.tokens.shape[1] + np.arange(len(tokens) - 1))]
        powers = np.exp(np.asarray(logits, np.float64)[row, places])
        chances = powers[np.arange(len(tokens)), tokens] / powers.sum(axis=1)
        sure.append(np.prod(chances) ** (1 / len(tokens)))
    cut = [list(map(tuple, cut_at_end(each, (EOS,)))) for each in (first, second)]
    return ByHand(*cut, np.array(sure))


def cascade():
    return Cascade(FIRST, SECOND, by_hand().threshold)


def cascade_engine(router=None, **options):
    """Returns an engine of few programs, with more requests than places and slots."""
    return engine(router or CascadeRouter(cascade()), config=SMALL, **options)


def check_answers(found, rows=range(ROWS)):
    """Asserts that these are the answers to REQUESTS of these rows."""
    expected = by_hand()
    for answer, row in zip(found, rows, strict=True):
        again = expected.sure[row] < expected.threshold
        assert answer.error is None
        assert answer.tokens == (expected.second if again else expected.first)[row]
        assert answer.budget == (SECOND if again else FIRST)
        budgets = [look.budget for look in answer.looks]
        assert budgets == ([FIRST, SECOND] if again else [FIRST])
        first = answer.looks[0]
        assert first.confidence == pytest.approx(expected.sure[row], rel=1e-4)
        assert answer.confidence == answer.looks[-1].confidence
        assert 0 < answer.confidence <= 1
        assert answer.steps == answer.looks[-1].steps


def check_nothing_is_kept(asked):
    """Asserts that every place and slot is free, and nobody is remembered."""
    assert asked.is_idle
    for bucket, pending in asked.scheduler.pending._pending.items():
        assert not pending.groups.is_busy
        assert pending.groups.free_places == asked.shapes.places(bucket)
        assert sorted(pending.groups._free) == list(range(asked.shapes.places(bucket)))
    batches = asked.scheduler.decode_batches
    assert not any(batch.is_busy for _, batch in batches._batches.items())
    left = asked.scheduler
    assert not any((left._requests, left._payers, left._looks, batches.read_alone))
