"""The engine's memory: accounts against arrays, bounds, and what gives way."""

import dataclasses

import jax
import pytest

from tests.inference import tiny_processor
from tests.inference.engine.tiny_engine import (
    BUDGETS,
    CONFIG,
    ENGINE_CONFIG,
    EOS,
    PROCESSOR,
    check,
    engine,
    scripted,
)
from visor_jax.flops.cache_bytes import cache_bytes
from visor_jax.inference.engine.engine_config import EngineConfig
from visor_jax.inference.engine.program_shapes import PENDING, SLOTS
from visor_jax.inference.routing.router import fixed
from visor_jax.runtime.device_cache import Held

SMALL, LARGE = tiny_processor.SMALL, tiny_processor.LARGE
BOTH = tiny_processor.processor(CONFIG, eos_id=EOS, buckets=(SMALL, LARGE))


def with_memory(memory_bytes, router=None, **config):
    config = dataclasses.replace(ENGINE_CONFIG, memory_bytes=memory_bytes, **config)
    return engine(router or scripted(), processor=BOTH, config=config)


def nbytes(arrays):
    return sum(x.nbytes for x in jax.tree.leaves(arrays))


@pytest.mark.parametrize("bucket", [SMALL, LARGE], ids=["small", "large"])
def test_accounts_are_the_bytes_of_the_arrays(bucket):
    asked = engine(scripted(), processor=BOTH)
    shapes, programs = asked.shapes, asked.programs
    for budget in BUDGETS:
        slots = programs.new_slots(budget, bucket)
        assert shapes.slots_bytes(budget, bucket) == nbytes(slots)
        formula = cache_bytes(
            CONFIG,
            budget,
            text_slots=bucket.text_tokens + ENGINE_CONFIG.new_tokens - 1,
            image_tokens=bucket.image_tokens,
            rows=ENGINE_CONFIG.slots,
        )
        assert slots.cache.num_bytes() == formula.total
        # Answers and tags are little beside keys and values.
        assert formula.total < nbytes(slots) < 1.1 * formula.total
    assert shapes.pending_bytes(bucket) == nbytes(programs.new_pending(bucket))


def test_large_buckets_get_fewer_slots_and_places():
    plenty = with_memory(10**9).shapes
    assert plenty.slots(BUDGETS[1], LARGE) == ENGINE_CONFIG.slots
    assert plenty.places(LARGE) == ENGINE_CONFIG.pending
    one = plenty.slots_bytes(BUDGETS[1], LARGE) / ENGINE_CONFIG.slots
    # Half of the memory holds two slots of the large bucket and its largest budget.
    few = with_memory(int(2 * 2.2 * one)).shapes
    assert few.slots(BUDGETS[1], LARGE) == 2
    assert few.slots(BUDGETS[1], SMALL) == ENGINE_CONFIG.slots
    assert few.requests_per_row(LARGE) == 2
    assert few.slots_bytes(BUDGETS[1], LARGE) <= few.share(SLOTS)
    assert few.places(LARGE) < few.places(SMALL)
    assert few.rows(LARGE) <= few.places(LARGE)
    assert few.pending_bytes(LARGE) <= few.share(PENDING)


def test_what_does_not_fit_is_refused_with_its_bytes_and_the_remedy():
    one = with_memory(10**9).shapes.slots_bytes(BUDGETS[1], SMALL) / ENGINE_CONFIG.slots
    with pytest.raises(
        ValueError, match=r"needs .* MB at 1 crops, 12 image.* allow \d"
    ):
        with_memory(int(1.5 * one))
    places = with_memory(10**9).shapes
    room = places.pending_bytes(SMALL) / ENGINE_CONFIG.pending
    # Enough for the small bucket alone.
    tight = with_memory(int(4.4 * max(room, one / 2)), fixed(BUDGETS[1]))
    with pytest.raises(ValueError, match=r"at 2 crops, 19 image and 20 text tokens"):
        tight.shapes.check(LARGE)
    large = next(r for r in tiny_processor.requests(9) if len(r.prompt.split()) > 8)
    (answer,) = tight.answer_all([large])
    assert "MB at 2 crops" in answer.error
    assert "allow" in answer.error
    with pytest.raises(ValueError, match="MB at 2 crops"):
        tight.warm_up()
    with pytest.raises(ValueError, match="memory_bytes=0 is below 1"):
        EngineConfig(memory_bytes=0)


def test_buckets_take_turns_where_only_one_fits():
    """...slots and room of one have to go for those of the other."""
    shapes = with_memory(10**9).shapes
    room = shapes.pending_bytes(LARGE) / ENGINE_CONFIG.pending
    slot = shapes.slots_bytes(BUDGETS[1], LARGE) / ENGINE_CONFIG.slots
    # One row of the large bucket and one of its slots, or little more.
    memory = int(1.05 * max(room / PENDING, slot / SLOTS))
    config = dataclasses.replace(
        ENGINE_CONFIG, memory_bytes=memory, rows=1, images_at_once=1
    )
    asked = engine(fixed(BUDGETS[1]), processor=BOTH, config=config, images_kept=0)
    batches, pending = asked.scheduler.decode_batches, asked.scheduler.pending

    def at_once():
        """Answers requests of both buckets; returns how many had slots at once."""
        requests, found, seen = tiny_processor.requests(12, seed=3), [], []
        for request in requests:
            asked.submit(request)
        while not asked.is_idle:
            found += asked.step()
            assert batches.num_bytes() <= batches._batches._most_bytes
            assert pending.num_bytes() <= pending._pending._most_bytes
            seen.append(set(batches.cache_bytes()))
        assert set().union(*seen) == {(BUDGETS[1], SMALL), (BUDGETS[1], LARGE)}
        found.sort(key=lambda answer: answer.number)
        check(found, requests, asked.router)
        return max(map(len, seen))

    assert at_once() == 1
    # The same programs with more room: nobody waits for the other bucket.
    batches._batches._most_bytes = pending._pending._most_bytes = 10**9
    assert at_once() == 2


def test_a_budget_that_waits_for_memory_has_its_turn():
    """...though another's slots never come free all at once."""
    asked = engine(scripted())
    batches = asked.scheduler.decode_batches
    slots = asked.shapes.slots_bytes
    first, second = (BUDGETS[0], LARGE), (BUDGETS[1], LARGE)
    batches._batches = Held(slots(*second), is_busy=lambda batch: batch.is_busy)
    batches._batch(*first).requests[0] = "somebody"
    assert batches.free_slots(*first) == ENGINE_CONFIG.slots - 1
    for _ in range(20):
        assert batches.free_slots(*second) == 0
        batches.keep_turns([second])
    assert batches.free_slots(*first) == 0
    batches._batches.get(first).requests[0] = None
    assert batches.free_slots(*second) == ENGINE_CONFIG.slots
    batches._batch(*second)
    assert set(batches.cache_bytes()) == {second}
    batches.keep_turns([])
    assert batches.free_slots(*first) == ENGINE_CONFIG.slots


def test_a_budget_that_nobody_waits_for_any_more_blocks_nobody():
    asked = engine(scripted())
    batches = asked.scheduler.decode_batches
    first, second = (BUDGETS[0], LARGE), (BUDGETS[1], LARGE)
    size = asked.shapes.slots_bytes(*first)
    batches._batches = Held(size, is_busy=lambda batch: batch.is_busy)
    batches._batch(*first).requests[0] = "somebody"
    for _ in range(20):
        batches.keep_turns([second])
    assert batches.free_slots(*first) == 0
    batches.keep_turns([])
    assert batches.free_slots(*first) == ENGINE_CONFIG.slots - 1


def test_samples_on_the_host_are_bounded_by_their_pixels():
    requests = tiny_processor.requests(8, seed=4)
    asked = with_memory(10**9, pending=8)
    one = max(PROCESSOR.sample(r, room=1).crops.nbytes for r in requests)
    asked.shapes.check(LARGE)
    asked.shapes.check(SMALL)
    asked.shapes.share = lambda part: one
    queue = asked.scheduler.queue
    queue.draw_from(iter(requests), 5)
    taken = len(queue.take_in())
    assert 0 < taken < 8
    assert not queue.take_in()


def test_the_longest_unused_goes_first_and_the_busy_stay():
    busy = set()
    held = Held(10, is_busy=busy.__contains__)
    for key in "abc":
        held.put(key, 3, lambda key=key: key)
    assert held.get("a") == "a"
    busy.add("b")
    assert held.has_room(7)
    assert not held.has_room(8)
    held.put("d", 3, lambda: "d")
    assert [key for key, _ in held.items()] == ["b", "a", "d"]
    assert held.num_bytes == 9
    # Handed out, but not held.
    assert held.put("e", 8, lambda: "e") == "e"
    assert held.get("e") is None
    with pytest.raises(ValueError, match="most_bytes=-1"):
        Held(-1)


def test_kept_values_may_be_few():
    held = Held(10, most=2)
    for key in "abc":
        held.put(key, 1, lambda key=key: key)
    assert [key for key, _ in held.items()] == ["b", "c"]
    none = Held(10, most=0)
    assert none.put("a", 1, lambda: "a") == "a"
    assert len(none) == 0
