"""The engine's memory: accounts against arrays, bounds, and what gives way."""

import dataclasses

import jax
import pytest

from tests.inference import tiny_reader
from tests.inference.engine.tiny_engine import (
    BUDGETS,
    CONFIG,
    EOS,
    READER,
    SIZES,
    check,
    engine,
    scripted,
)
from visor_jax.flops.cache_bytes import cache_bytes
from visor_jax.inference.engine.engine_config import Sizes
from visor_jax.inference.engine.program_shapes import SLOTS, WAITING
from visor_jax.inference.routing.router import fixed
from visor_jax.runtime.device_cache import Held

SMALL, LARGE = tiny_reader.SMALL, tiny_reader.LARGE
BOTH = tiny_reader.reader(CONFIG, eos_id=EOS, buckets=(SMALL, LARGE))


def with_memory(memory_bytes, chooser=None, **sizes):
    sizes = dataclasses.replace(SIZES, memory_bytes=memory_bytes, **sizes)
    return engine(chooser or scripted(), reader=BOTH, sizes=sizes)


def nbytes(arrays):
    return sum(x.nbytes for x in jax.tree.leaves(arrays))


@pytest.mark.parametrize("bucket", [SMALL, LARGE], ids=["small", "large"])
def test_accounts_are_the_bytes_of_the_arrays(bucket):
    asked = engine(scripted(), reader=BOTH)
    shapes, programs = asked.shapes, asked.programs
    for budget in BUDGETS:
        slots = programs.new_slots(budget, bucket)
        assert shapes.slots_bytes(budget, bucket) == nbytes(slots)
        formula = cache_bytes(
            CONFIG,
            budget,
            text_slots=bucket.text_tokens + SIZES.new_tokens - 1,
            image_tokens=bucket.image_tokens,
            rows=SIZES.slots,
        )
        assert slots.cache.num_bytes() == formula.total
        # Answers and tags are little beside keys and values.
        assert formula.total < nbytes(slots) < 1.1 * formula.total
    assert shapes.room_bytes(bucket) == nbytes(programs.new_room(bucket))


def test_large_buckets_get_fewer_slots_and_places():
    plenty = with_memory(10**9).shapes
    assert plenty.slots(BUDGETS[1], LARGE) == SIZES.slots
    assert plenty.places(LARGE) == SIZES.waiting
    one = plenty.slots_bytes(BUDGETS[1], LARGE) / SIZES.slots
    # Half of the memory holds two slots of the large bucket and its largest budget.
    few = with_memory(int(2 * 2.2 * one)).shapes
    assert few.slots(BUDGETS[1], LARGE) == 2
    assert few.slots(BUDGETS[1], SMALL) == SIZES.slots
    assert few.questions_per_row(LARGE) == 2
    assert few.slots_bytes(BUDGETS[1], LARGE) <= few.share(SLOTS)
    assert few.places(LARGE) < few.places(SMALL)
    assert few.rows(LARGE) <= few.places(LARGE)
    assert few.room_bytes(LARGE) <= few.share(WAITING)


def test_what_does_not_fit_is_refused_with_its_bytes_and_the_remedy():
    one = with_memory(10**9).shapes.slots_bytes(BUDGETS[1], SMALL) / SIZES.slots
    with pytest.raises(
        ValueError, match=r"needs .* MB at 1 crops, 12 image.* allow \d"
    ):
        with_memory(int(1.5 * one))
    places = with_memory(10**9).shapes
    room = places.room_bytes(SMALL) / SIZES.waiting
    # Enough for the small bucket alone.
    tight = with_memory(int(4.4 * max(room, one / 2)), fixed(BUDGETS[1]))
    with pytest.raises(ValueError, match=r"at 2 crops, 19 image and 20 text tokens"):
        tight.shapes.check(LARGE)
    large = next(r for r in tiny_reader.requests(9) if len(r.prompt.split()) > 8)
    (answer,) = tight.answer_all([large])
    assert "MB at 2 crops" in answer.error
    assert "allow" in answer.error
    with pytest.raises(ValueError, match="MB at 2 crops"):
        tight.warm_up()
    with pytest.raises(ValueError, match="memory_bytes=0 is below 1"):
        Sizes(memory_bytes=0)


def test_buckets_take_turns_where_only_one_fits():
    """...slots and room of one have to go for those of the other."""
    shapes = with_memory(10**9).shapes
    room = shapes.room_bytes(LARGE) / SIZES.waiting
    slot = shapes.slots_bytes(BUDGETS[1], LARGE) / SIZES.slots
    # One row of the large bucket and one of its slots, or little more.
    memory = int(1.05 * max(room / WAITING, slot / SLOTS))
    sizes = dataclasses.replace(SIZES, memory_bytes=memory, rows=1, images_at_once=1)
    asked = engine(fixed(BUDGETS[1]), reader=BOTH, sizes=sizes, images_kept=0)
    writers, rooms = asked.scheduler.writers, asked.scheduler.rooms

    def at_once():
        """Answers requests of both buckets; returns how many had slots at once."""
        requests, found, seen = tiny_reader.requests(12, seed=3), [], []
        for request in requests:
            asked.submit(request)
        while not asked.is_idle:
            found += asked.step()
            assert writers.num_bytes() <= writers._writers._most_bytes
            assert rooms.num_bytes() <= rooms._rooms._most_bytes
            seen.append(set(writers.cache_bytes()))
        assert set().union(*seen) == {(BUDGETS[1], SMALL), (BUDGETS[1], LARGE)}
        found.sort(key=lambda answer: answer.number)
        check(found, requests, asked.chooser)
        return max(map(len, seen))

    assert at_once() == 1
    # The same programs with more room: nobody waits for the other bucket.
    writers._writers._most_bytes = rooms._rooms._most_bytes = 10**9
    assert at_once() == 2


def test_a_budget_that_waits_for_memory_has_its_turn():
    """...though another's slots never come free all at once."""
    asked = engine(scripted())
    writers = asked.scheduler.writers
    slots = asked.shapes.slots_bytes
    first, second = (BUDGETS[0], LARGE), (BUDGETS[1], LARGE)
    writers._writers = Held(slots(*second), is_busy=lambda writer: writer.is_busy)
    writers._writer(*first).questions[0] = "somebody"
    assert writers.free_slots(*first) == SIZES.slots - 1
    for _ in range(20):
        assert writers.free_slots(*second) == 0
        writers.keep_turns([second])
    assert writers.free_slots(*first) == 0
    writers._writers.get(first).questions[0] = None
    assert writers.free_slots(*second) == SIZES.slots
    writers._writer(*second)
    assert set(writers.cache_bytes()) == {second}
    writers.keep_turns([])
    assert writers.free_slots(*first) == SIZES.slots


def test_a_budget_that_nobody_waits_for_any_more_blocks_nobody():
    asked = engine(scripted())
    writers = asked.scheduler.writers
    first, second = (BUDGETS[0], LARGE), (BUDGETS[1], LARGE)
    size = asked.shapes.slots_bytes(*first)
    writers._writers = Held(size, is_busy=lambda writer: writer.is_busy)
    writers._writer(*first).questions[0] = "somebody"
    for _ in range(20):
        writers.keep_turns([second])
    assert writers.free_slots(*first) == 0
    writers.keep_turns([])
    assert writers.free_slots(*first) == SIZES.slots - 1


def test_samples_on_the_host_are_bounded_by_their_pixels():
    requests = tiny_reader.requests(8, seed=4)
    asked = with_memory(10**9, waiting=8)
    one = max(READER.sample(r, room=1).crops.nbytes for r in requests)
    asked.shapes.check(LARGE)
    asked.shapes.check(SMALL)
    asked.shapes.share = lambda part: one
    intake = asked.scheduler.intake
    intake.draw_from(iter(requests), 5)
    taken = len(intake.take_in())
    assert 0 < taken < 8
    assert not intake.take_in()


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
