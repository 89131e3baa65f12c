"""Requests that say how they are answered, in one engine and in one call."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.inference import tiny_processor
from tests.inference.engine.tiny_engine import (
    BUDGETS,
    CONFIG,
    ENGINE_CONFIG,
    MODEL,
    PARAMS,
    PROCESSOR,
    alone,
    choice,
    engine,
)
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.sampling import GREEDY, Sampling
from visor_jax.inference.batch_answers import answer_samples
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.routing.router import fixed

NEVER = dataclasses.replace(
    tiny_processor.processor(CONFIG, eos_id=CONFIG.decoder.vocab_size - 1),
    eos_ids=(-1,),
)
DRAWS = Sampling(temperature=2.0, top_p=0.9)
PENALTY = Sampling(repetition_penalty=1.4, also_used=(3, 4))
SAID = (
    AnswerOptions(),
    AnswerOptions(budget=BUDGETS[0].name),
    AnswerOptions(budget="all", max_new_tokens=2),
    AnswerOptions(sampling=DRAWS, seed=5),
    AnswerOptions(sampling=DRAWS, seed=6, max_new_tokens=4),
    AnswerOptions(sampling=PENALTY),
    AnswerOptions(sampling=dataclasses.replace(DRAWS, top_k=3), seed=5, budget="none"),
    AnswerOptions(max_new_tokens=1),
)
REQUESTS = [
    dataclasses.replace(request, options=options)
    for request, options in zip(tiny_processor.requests(8, seed=2), SAID, strict=True)
]


def expected(request):
    """Returns the tokens of a request that is asked alone, with arguments."""
    said = request.options
    name = BUDGETS[-1].name if said.budget in (None, "all") else BUDGETS[0].name
    (budget,) = [budget for budget in BUDGETS if budget.name == name]
    return alone(
        request,
        budget,
        processor=NEVER,
        count=said.max_new_tokens or 5,
        sampling=said.sampling or GREEDY,
        key=None if said.seed is None else jax.random.key(said.seed),
    )


def shared_engine():
    return engine(fixed(BUDGETS[-1]), processor=NEVER, budgets=BUDGETS[:1])


def test_an_engine_answers_each_request_as_it_asks():
    asked = shared_engine()
    found = asked.answer_all(REQUESTS)
    assert [answer.error for answer in found] == [None] * len(REQUESTS)
    for answer, request in zip(found, REQUESTS, strict=True):
        assert answer.tokens == expected(request)
    assert {answer.budget for answer in found} == {BUDGETS[0], BUDGETS[-1]}
    # What they draw depends on the request alone, and no setting is a program.
    turned = asked.answer_all(REQUESTS[::-1])
    assert [each.tokens for each in turned[::-1]] == [each.tokens for each in found]
    kinds = [key[0] for key, _ in asked.programs.compiled.items()]
    assert (kinds.count("decode_draws"), kinds.count("first_tokens")) == (2, 1)
    assert kinds.count("decode") <= 2


def test_one_call_answers_each_request_as_it_asks():
    options = [request.options for request in REQUESTS]
    rooms = [each.max_new_tokens or 5 for each in options]
    samples = [
        NEVER.sample(request, room=room)
        for request, room in zip(REQUESTS, rooms, strict=True)
    ]
    budgets = [
        BUDGETS[-1] if each.budget in (None, "all") else BUDGETS[0] for each in options
    ]
    found = answer_samples(
        choice(NEVER),
        NEVER,
        samples,
        budgets,
        batch_size=4,
        options=options,
        max_new_tokens=5,
        sampling=GREEDY,
        key=None,
    )
    for text, request in zip(found, REQUESTS, strict=True):
        assert text == " ".join(map(str, expected(request)))


def test_an_answer_ends_before_a_stop_string_and_frees_its_slot():
    plain = Request("<image> 7 9", [tiny_processor.Picture(seed=2, tokens=6)])
    (whole,) = shared_engine().answer_all([plain])
    words = whole.text.split()
    assert len(words) == 5
    for index in range(1, 5):
        # Found in the midst of a turn of two tokens, and at its end.
        stop = f" {words[index]}"
        text = whole.text[: whole.text.index(stop)]
        options = AnswerOptions(stop=(stop, "no such text"))
        request = dataclasses.replace(plain, options=options)
        asked = shared_engine()
        (found,) = asked.answer_all([request])
        used = len(text.split()) + 1
        assert (found.text, found.tokens) == (text, whole.tokens[:used])
        assert found.steps == used - 1
        assert asked.is_idle
        (again,) = asked.answer_all([plain])
        assert again.tokens == whole.tokens


def test_a_slot_that_was_stopped_is_filled_again():
    """More requests than slots, all stopped early, beside some that are not."""
    plain = Request("<image> 7 9", [tiny_processor.Picture(seed=2, tokens=6)])
    (whole,) = shared_engine().answer_all([plain])
    stop = " " + whole.text.split()[1]
    early = dataclasses.replace(plain, options=AnswerOptions(stop=(stop,)))
    requests = [early, plain, early, early, plain, early, early, early] * 2
    for answer, request in zip(
        shared_engine().answer_all(requests), requests, strict=True
    ):
        full = request.options.stop == ()
        assert answer.text == (whole.text if full else whole.text.split(stop)[0])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (AnswerOptions(max_new_tokens=6), r"max_new_tokens=6 .*EngineConfig\(new_tok"),
        (AnswerOptions(sampling=DRAWS), "give it a key, or the request a seed"),
        (AnswerOptions(budget="sa1:7"), "sa1:7"),
        (AnswerOptions(budget=BUDGETS[-1].name), "is none of the engine's"),
        (AnswerOptions(budget="auto"), "needs a network with a policy"),
        (
            AnswerOptions(sampling=dataclasses.replace(PENALTY, also_used=(40,))),
            r"also_used=\(40,\)",
        ),
    ],
)
def test_what_cannot_be_done_is_an_error_of_the_request_alone(options, reason):
    requests = tiny_processor.requests(2, seed=2)
    bad = dataclasses.replace(requests[0], options=options)
    asked = engine(fixed(BUDGETS[0]), processor=NEVER)
    refused, answered = asked.answer_all([bad, requests[1]])
    with pytest.raises(ValueError, match=reason):
        raise ValueError(refused.error)
    assert answered.error is None


def test_a_sampling_of_all_that_cannot_be_done_is_refused_at_once():
    also = tuple(np.arange(9).tolist())
    with pytest.raises(ValueError, match="at most 8 tokens"):
        engine(fixed(BUDGETS[0]), sampling=Sampling(also_used=also))


def test_an_engine_keeps_so_many_programs():
    """...and compiles again what is needed again; answers do not change."""
    said = []
    config = dataclasses.replace(ENGINE_CONFIG, rows=1, pending=1, programs=4)
    asked = Engine(
        MODEL, PARAMS, NEVER, fixed(BUDGETS[-1]), config=config, log=said.append
    )
    requests = [Request("5 6"), *tiny_processor.requests(1, seed=2)]
    found = [asked.answer_all([request])[0].tokens for request in requests * 2]
    assert found[:2] == found[2:]
    for tokens, request in zip(found[:2], requests, strict=True):
        assert tokens == alone(request, BUDGETS[-1], processor=NEVER)
    assert len(asked.programs.compiled) <= 4
    assert asked.programs.let_go.let_go > 0
    assert any("4 are kept" in line for line in said)


def test_seconds_are_of_work_and_not_of_compiling(monkeypatch):
    asked = engine(fixed(BUDGETS[0]), config=ENGINE_CONFIG, images_kept=3)
    now = [100.0]
    monkeypatch.setattr(asked.programs.clock, "_clock", lambda: now[0])
    asked.programs.compiled.clear()
    get = asked.programs._get

    def slowly(key, trace):
        def traced():
            now[0] += 1000
            return trace()

        program = get(key, traced)
        now[0] += 1
        return program

    monkeypatch.setattr(asked.programs, "_get", slowly)
    (answer,) = asked.answer_all([Request("5 6")])
    assert answer.error is None
    assert now[0] > 3000
    assert 0 < answer.seconds < 50
    assert PROCESSOR.text(answer.tokens) == answer.text
