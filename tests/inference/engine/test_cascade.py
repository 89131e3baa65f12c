"""A cascade in the engine: unsure first answers go back, whatever runs beside them."""

import contextlib
import dataclasses

import pytest

from tests.flops.jaxpr_flops import as_one_operation, count_jaxpr_flops
from tests.inference import tiny_processor
from tests.inference.engine.cascade_by_hand import (
    FIRST,
    REQUESTS,
    ROWS,
    SECOND,
    SMALL,
    by_hand,
    cascade,
    cascade_engine,
    check_answers,
    check_nothing_is_kept,
)
from tests.inference.engine.tiny_engine import BUDGETS, CONFIG, MODEL, engine
from tests.inference.tiny_processor import Picture
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.request import Request
from visor_jax.flops import layer_costs
from visor_jax.flops.account import account
from visor_jax.inference.engine.decode_batches import DecodeBatches
from visor_jax.inference.files.answer_flops import flops_of
from visor_jax.inference.routing.cascade import Cascade
from visor_jax.inference.routing.router import CascadeRouter, fixed
from visor_jax.models.decoder import cross_attention
from visor_jax.runtime.device_cache import Held


def test_the_halves_differ():
    """...or the tests here would say nothing."""
    found = by_hand()
    again = found.sure < found.threshold
    differ = [one != two for one, two in zip(found.first, found.second, strict=True)]
    assert again.sum() == ROWS // 2
    assert (again & differ).sum() > 2
    assert (~again & differ).sum() > 2
    # Of the questions about one image some are unsure and some are not.
    assert 0 < again[8:].sum() < 8


def test_unsure_answers_are_those_of_the_second_budget(monkeypatch):
    """...tower and trunk run once for each, and more come than there are places."""
    asked, calls = cascade_engine(), []
    get = asked.programs._get
    monkeypatch.setattr(
        asked.programs, "_get", lambda key, trace: calls.append(key) or get(key, trace)
    )
    check_answers(asked.answer_all(REQUESTS))
    check_nothing_is_kept(asked)
    pictures = {id(r.images[0]) for r in REQUESTS[:8] if r.images}
    assert asked.scheduler.images.images_run == len(pictures) + 1
    kinds = [key[0] for key in calls]
    # A row of its own for each, and up to three questions about the picture in one.
    assert kinds.count("prefill_trunk") == 8 + 3
    assert {key[1] for key in calls if key[0] == "prefill"} == {FIRST, SECOND}
    # Once more: the image and its keys in both budgets are at hand.
    again = asked.answer_all(REQUESTS)
    for answer, row in zip(again, range(ROWS), strict=True):
        check_answers([answer], [row])
        if REQUESTS[row].images:
            assert not answer.encoded
            assert answer.looks[0].at_hand == (0, 1, 2)
            assert answer.at_hand == ((1, 2) if len(answer.looks) > 1 else (0, 1, 2))
    check_nothing_is_kept(asked)


def test_a_first_look_is_not_heard():
    """...for it may not be the answer."""
    asked, heard = cascade_engine(), {}
    for request in REQUESTS:
        asked.submit(
            request,
            listener=lambda told: heard.setdefault(told.number, []).append(told),
        )
    found = []
    while not asked.is_idle:
        found += asked.step()
    check_answers(sorted(found, key=lambda answer: answer.number))
    for answer in found:
        told = heard.get(answer.number, [])
        assert not told or len(answer.looks) == 2
        for each in told:
            assert each.budget == SECOND
            assert each.tokens == answer.tokens[: len(each.tokens)]
    assert any(heard.values())


@pytest.mark.parametrize("rounds", [1, 3])
def test_what_is_cancelled_between_two_looks_leaves_nothing(rounds):
    asked = cascade_engine()
    numbers = [asked.submit(request) for request in REQUESTS]
    answered = {each.number for _ in range(rounds) for each in asked.step()}
    cancelled = [number for number in numbers if asked.cancel(number)]
    assert {*cancelled, *answered} == {*numbers}
    assert cancelled
    assert asked.is_idle
    check_nothing_is_kept(asked)
    check_answers(asked.answer_all(REQUESTS))


@pytest.mark.parametrize("rows", [[8], [15, 3, 9, 0]], ids=str)
def test_answers_are_the_same_whatever_runs_beside(rows):
    asked = cascade_engine()
    check_answers(asked.answer_all([REQUESTS[row] for row in rows]), rows)
    # Requests that come while others are looked at again.
    found, order = [], [*rows, *range(4)]
    for row in order:
        asked.submit(REQUESTS[row])
        found += asked.step()
    found += asked.answers()
    found.sort(key=lambda answer: answer.number)
    check_answers(found, order)
    check_nothing_is_kept(asked)


@pytest.mark.parametrize("leave_at", [0, 1, 2, 3, 5, 8])
def test_a_stream_that_is_left_leaves_no_place(leave_at):
    """...whether first answers are being written, unsure, or written again."""
    asked, found = cascade_engine(), []
    number = asked.submit(REQUESTS[9])
    with contextlib.closing(asked.rounds(REQUESTS)) as stream:
        for count, answers in enumerate(stream):
            found += answers
            if count == leave_at:
                break
    found += asked.answers()
    check_nothing_is_kept(asked)
    # What was submitted stays.
    check_answers([answer for answer in found if answer.number == number], [9])
    check_answers(asked.answer_all(REQUESTS[:5]), range(5))


def test_an_error_in_a_round_leaves_nothing(monkeypatch):
    asked = cascade_engine()

    def broken(self):
        raise KeyError("broken")

    for request in REQUESTS[8:]:
        asked.submit(request)
    asked.step()
    with monkeypatch.context() as patch:
        patch.setattr(DecodeBatches, "decode", broken)
        with pytest.raises(KeyError):
            asked.step()
    check_nothing_is_kept(asked)
    check_answers(asked.answer_all(REQUESTS[8:11]), range(8, 11))


def test_little_memory_delays_and_blocks_nobody():
    """Slots of one budget at a time: each has its turn."""
    asked = cascade_engine()
    batches = asked.scheduler.decode_batches
    most = max(asked.shapes.slots_bytes(b, tiny_processor.LARGE) for b in BUDGETS)
    batches._batches = Held(most, is_busy=lambda batch: batch.is_busy)
    check_answers(asked.answer_all(REQUESTS))
    check_nothing_is_kept(asked)


def test_requests_name_cascades_and_budgets_of_their_own():
    plain, other = cascade(), dataclasses.replace(cascade(), threshold=1.0)
    names = [plain.name, "cascade", FIRST.name, None, other.name, SECOND.name]
    asked = [
        dataclasses.replace(REQUESTS[row], options=AnswerOptions(budget=name))
        for row, name in enumerate(names)
    ]
    cascades = {"cascade": plain, other.name: other}
    for router in (CascadeRouter(plain), fixed(SECOND)):
        own = cascade_engine(router, budgets=BUDGETS, cascades=cascades)
        found = own.answer_all(asked)
        check_answers(found[:2], range(2))
        assert (found[2].budget, found[2].looks) == (FIRST, ())
        # Its confidence is known, since others' is asked for.
        assert found[2].confidence == pytest.approx(by_hand().sure[2], rel=1e-4)
        assert found[4].budget == SECOND
        assert found[4].tokens == by_hand().second[4]
        assert len(found[4].looks) == 2
        assert (found[5].budget, found[5].looks) == (SECOND, ())
        check_nothing_is_kept(own)
        if isinstance(router, CascadeRouter):
            check_answers(found[3:4], [3])
        else:
            assert (found[3].budget, found[3].looks) == (SECOND, ())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cascade", "'cascade' is none of the engine's cascades: it has none"),
        ("cascade:sa0,sa1:1@0.5", r"none of the engine's .*Make it with budgets=\["),
        ("cascade:sa0,sa1:1@2", "must lie above 0 and up to 1"),
        ("cascade:sa0,sa1:2@0.5", "switches on layers"),
    ],
)
def test_cascades_that_the_engine_has_not_are_errors_of_the_request(name, reason):
    said = AnswerOptions(budget=name)
    own = engine(fixed(FIRST), config=SMALL)
    assert not own.shapes.scored
    (refused,) = own.answer_all([dataclasses.replace(REQUESTS[0], options=said)])
    with pytest.raises(ValueError, match=reason):
        raise ValueError(refused.error)
    check_nothing_is_kept(own)


def test_a_stop_string_ends_a_look_and_what_it_is_sure_of():
    """The device writes on behind it: that does not count."""
    found = by_hand()
    row = next(i for i, tokens in enumerate(found.first) if len(tokens) == 5)
    word = str(found.first[row][1])
    said = AnswerOptions(stop=(f" {word}",), budget="cascade")
    asked = dataclasses.replace(REQUESTS[row], options=said)
    sure = Cascade(FIRST, SECOND, 5e-324)
    own = cascade_engine(CascadeRouter(sure))
    (answer,) = own.answer_all([asked])
    (whole,) = own.answer_all([REQUESTS[row]])
    assert answer.tokens == found.first[row][:2]
    assert whole.tokens == found.first[row]
    assert answer.confidence != pytest.approx(whole.confidence)
    two = dataclasses.replace(asked, options=AnswerOptions(max_new_tokens=2))
    (short,) = own.answer_all([two])
    assert answer.confidence == pytest.approx(short.confidence)


def test_flops_are_those_of_the_programs_that_ran(monkeypatch):
    """...each walked as it was traced: tower and trunk once, both looks behind them."""
    monkeypatch.setattr(cross_attention, "depthwise_conv", as_one_operation)
    asked = cascade_engine(CascadeRouter(Cascade(FIRST, SECOND, 1.0)))
    get, calls = asked.programs._get, []

    def counting(key, trace):
        if key[0] in ("encode", "prefill_trunk", "prefill", "prefill_text"):
            calls.append((key[0], count_jaxpr_flops(trace().jaxpr.jaxpr)))
        return get(key, trace)

    monkeypatch.setattr(asked.programs, "_get", counting)
    bucket = tiny_processor.LARGE
    # They fill their bucket: nothing is padding.
    words = [str(1 + i) for i in range(bucket.text_tokens)]
    picture = Picture(seed=70, tokens=bucket.image_tokens, crops=bucket.crops)
    one, other = (
        Request(f"<image> {' '.join(text)}", [picture]) for text in (words, words[::-1])
    )
    # Programs compute logits for every slot.
    head = layer_costs.lm_head(CONFIG.decoder, positions=1)
    more = 2 * (SMALL.slots - 1) * head
    (new,) = asked.answer_all([one])
    kinds = ["encode", "prefill_trunk", "prefill", "prefill"]
    assert [kind for kind, _ in calls] == kinds
    found = flops_of(new, MODEL)
    ran = sum(flops for _, flops in calls)
    assert found["tower"] + found["projector"] + found["llm_prefill"] + more == ran
    calls.clear()
    (known,) = asked.answer_all([other])
    assert [k for k, _ in calls] == ["prefill_trunk", "prefill_text", "prefill_text"]
    found = flops_of(known, MODEL)
    assert found["tower"] == found["projector"] == 0
    assert found["llm_prefill"] + more == sum(flops for _, flops in calls)
    # All answers are written, the first ones too.
    written = 0
    for answer in (new, known):
        lengths = {"text_tokens": 20, "image_tokens": 19, "crops": 2}
        decoded = [
            account(CONFIG, look.budget, **lengths).decode_per_token(20 + 1 + step)
            for look in answer.looks
            for step in range(look.steps)
        ]
        assert flops_of(answer, MODEL)["decode"] == sum(decoded)
        written += sum(look.steps for look in answer.looks)
    assert written > 0
