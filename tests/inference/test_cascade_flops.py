"""The FLOPs of both looks against a walk of the programs that run."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.flops.jaxpr_flops import as_one_operation, count_flops
from tests.inference.engine.tiny_engine import (
    BUDGETS,
    CONFIG,
    MODEL,
    PROCESSOR,
    choice,
)
from tests.inference.tiny_processor import LARGE, Picture
from visor_jax.budget import Budget
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.request import Request
from visor_jax.flops.account import account
from visor_jax.inference.answers import Answer
from visor_jax.inference.files.answer_file import record_of
from visor_jax.inference.files.answer_flops import flops_of
from visor_jax.inference.files.request_file import RequestEntry
from visor_jax.inference.files.request_options import budget_name, known_budgets
from visor_jax.inference.generation import shared_trunk
from visor_jax.inference.options import Attempt
from visor_jax.inference.prefilled_parts import looking_again, prefilled_parts
from visor_jax.inference.routing import choose_budgets
from visor_jax.inference.routing.cascade import Cascade
from visor_jax.models.decoder import cross_attention

FIRST, SECOND = BUDGETS[0], BUDGETS[-1]
CASCADE = Cascade(FIRST, SECOND, 1.0)
# It fills its bucket: nothing is padding.
WORDS = " ".join(map(str, 1 + np.arange(LARGE.text_tokens)))
PICTURE = Picture(seed=7, tokens=LARGE.image_tokens, crops=LARGE.crops)
LENGTHS = {
    "text_tokens": LARGE.text_tokens,
    "image_tokens": LARGE.image_tokens,
    "crops": LARGE.crops,
    "logit_positions": 1,
}


@pytest.fixture(autouse=True)
def _one_convolution(monkeypatch):
    """Adapters run their convolution as one: see `tests.flops.test_program`."""
    monkeypatch.setattr(cross_attention, "depthwise_conv", as_one_operation)


def test_both_looks_cost_the_programs_that_run(monkeypatch):
    counted = []

    def walked(function):
        def call(*inputs, **static):
            def run(*inputs):
                return function._function(*inputs, **static)

            counted.append(count_flops(run, *inputs))
            return jax.eval_shape(run, *inputs)

        return call

    for module, name in (
        (choose_budgets, "read_trunk_alone"),
        (shared_trunk, "_prefill_behind"),
    ):
        monkeypatch.setattr(module, name, walked(getattr(module, name)))
    sample = PROCESSOR.sample(Request(f"<image> {WORDS}", [PICTURE]), room=5)
    asked = choice()
    (part,) = prefilled_parts(
        asked, [sample], [CASCADE], [5], costs=[0.0], batch_size=1
    )
    assert len(counted) == 2
    looking_again(asked, part, [0], [5])
    assert len(counted) == 3
    first, second = (account(CONFIG, budget, **LENGTHS) for budget in (FIRST, SECOND))
    assert sum(counted[:2]) == first.end_to_end
    assert counted[2] == second.behind_trunk
    # Asked by itself, the second budget costs tower, projector and trunk once more.
    assert second.behind_trunk < second.llm_prefill < second.end_to_end


def test_one_look_costs_what_a_budget_costs():
    looks = (Attempt(budget=SECOND, confidence=0.5, steps=3),)
    plain = Answer(
        number=0,
        request=Request("5"),
        budget=SECOND,
        steps=3,
        text_tokens=8,
        image_tokens=6,
        crops=1,
        encoded=True,
    )
    of_cascade = dataclasses.replace(plain, looks=looks)
    assert flops_of(plain, MODEL) == flops_of(of_cascade, MODEL)
    twice = dataclasses.replace(
        plain, looks=(Attempt(budget=Budget(), confidence=0.1, steps=1), *looks)
    )
    assert flops_of(twice, MODEL)["llm_prefill"] > flops_of(plain, MODEL)["llm_prefill"]
    assert flops_of(twice, MODEL)["tower"] == flops_of(plain, MODEL)["tower"]


def test_a_line_of_answers_says_what_every_look_came_to():
    looks = (
        Attempt(budget=FIRST, confidence=0.25, steps=1),
        Attempt(budget=SECOND, confidence=0.75, steps=2),
    )
    answer = Answer(
        number=0,
        request=Request("5"),
        text="7",
        budget=SECOND,
        steps=2,
        text_tokens=8,
        confidence=0.75,
        looks=looks,
    )
    entry = RequestEntry(id="a", digest="d", request=answer.request)
    line = record_of(entry, answer, MODEL)
    assert (line["budget"], line["confidence"]) == (SECOND.name, 0.75)
    assert line["looks"] == [
        {"budget": FIRST.name, "confidence": 0.25},
        {"budget": SECOND.name, "confidence": 0.75},
    ]
    assert line["flops"] == flops_of(answer, MODEL)
    plain = record_of(entry, dataclasses.replace(answer, looks=()), MODEL)
    assert set(line) - set(plain) == {"confidence", "looks"}


def test_files_name_cascades_with_their_thresholds():
    """...so that another calibration is another setting."""
    budgets, found = choice().budgets, CASCADE

    def find(name):
        if name == "cascade":
            return found
        return Cascade.of_name(name, budgets.plan)

    assert budget_name("cascade", budgets, find) == CASCADE.name
    assert budget_name("auto", budgets, find) == "auto"
    assert budget_name(None, budgets, find) == SECOND.name
    said = [
        AnswerOptions(budget=name)
        for name in ("none", "cascade", "cascade:sa0,all@2", "sa1:7", "auto", "cascade")
    ]
    assert known_budgets(said, budgets, find) == [FIRST, "cascade"]
