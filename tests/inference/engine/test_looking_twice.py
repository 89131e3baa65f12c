"""The base view first, all crops where that is unsure, among other requests."""

import dataclasses
import functools
import json

import pytest

import visor_jax
from tests.data.prompts import prompt_cases
from tests.data.tiny_llava import question, random_image
from tests.inference import chat_run
from tests.inference.engine.test_looks import IMAGES, NEW_TOKENS, SMALL, model
from tests.tolerances import REORDERED
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.request import Request
from visor_jax.inference.answers import Outcome
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.files.answer_file import record_of
from visor_jax.inference.files.answer_flops import flops_of
from visor_jax.inference.files.request_file import RequestEntry
from visor_jax.inference.looking_twice import LookedPrompt
from visor_jax.inference.visor_model import VisorModel
from visor_jax.look_cascade import LookCascade

COUNT = 6
CROPS = 5


def asked(number: int, crops: str, budget: str | None = None) -> Request:
    options = AnswerOptions(crops=crops, budget=budget)
    return Request(question(f"Why {number}?"), [IMAGES[number % 2]], options=options)


@functools.cache
def engine() -> Engine:
    """Returns the engine of most tests: what it has compiled serves all of them."""
    return model().engine(
        "none", budgets=["all"], looks=["auto@1", "base", 2], config=SMALL
    )


def afresh() -> Engine:
    """Returns it without images at hand."""
    engine().forget_images()
    return engine()


def sure_of(request: Request, network: VisorModel, budget: str = "none") -> float:
    """Returns how sure the network is of its answer to the base view."""
    prompt = LookedPrompt(
        network=network.network.looking_at("base"),
        request=request,
        budget=network.budget(budget),
        max_new_tokens=NEW_TOKENS,
    )
    return prompt.first.confidence


def alone(request: Request, crops: str) -> str:
    budget = request.options.budget or "none"
    return model().generate(request.images, request.prompt, budget, crops=crops)


def test_mixed_with_others_as_alone():
    confidences = [sure_of(asked(i, "base"), model()) for i in range(COUNT)]
    # Between the surest and the others, so that both happen.
    threshold = sum(sorted(confidences)[2:4]) / 2
    crops = LookCascade(threshold).name
    requests = [asked(i, crops) for i in range(COUNT)]
    others = [asked(0, "all"), asked(1, "base+2"), asked(2, "base", "all")]
    twice = afresh()
    before = twice.scheduler.images.crops_run
    answers = twice.answer_all([*others, *requests])
    assert [each.error for each in answers] == [None] * len(answers)
    unsure = [confidence < threshold for confidence in confidences]
    assert any(unsure)
    assert not all(unsure)
    ends = ["all" if again else "base" for again in unsure]
    expected = [alone(r, r.options.crops) for r in others]
    expected += [alone(r, end) for r, end in zip(requests, ends, strict=True)]
    assert [each.text for each in answers] == expected
    assert alone(requests[0], "base") != alone(requests[0], "all")
    for answer, again, sure in zip(answers[3:], unsure, confidences, strict=True):
        seen = answer.looked_at
        assert (seen["asked"], seen["of"]) == (crops, CROPS)
        assert seen["crops"] == (list(range(CROPS)) if again else [0])
        assert answer.crops == len(seen["crops"])
        assert (answer.first_look is not None) == again
        first = answer.first_look or answer
        assert first.confidence == pytest.approx(sure, **_relative())
        assert first.looked_at["crops"] == [0]
    # All that went through the tower is in some answer's FLOPs.
    looks = [each.first_look or each for each in answers]
    looks += [each for each in answers if each.first_look]
    paid = sum(each.crops for each in looks if each.encoded)
    assert twice.scheduler.images.crops_run - before == paid
    assert twice.is_idle


def _relative() -> dict:
    return {"rel": REORDERED["rtol"], "abs": REORDERED["atol"]}


def test_both_looks_are_counted_and_told():
    request = asked(0, "auto@1")
    (answer,) = afresh().answer_all([request])
    base, whole = (
        afresh().answer_all([asked(0, crops)])[0] for crops in ("base", "all")
    )
    found, parts = flops_of(answer, model().vlm), [base, whole]
    counted = [flops_of(each, model().vlm) for each in parts]
    assert found == {part: sum(each[part] for each in counted) for part in found}
    assert found["tower"] == (CROPS + 1) / CROPS * counted[1]["tower"]
    line = record_of(
        RequestEntry(id=1, digest="d", request=request), answer, model().vlm
    )
    said = json.loads(json.dumps(line))
    assert said["looked_at"]["crops"] == list(range(CROPS))
    assert said["first_look"]["crops"] == [0]
    assert 0 < said["first_look"]["confidence"] < 1
    assert 0 < said["confidence"] < 1
    plain = record_of(
        RequestEntry(id=1, digest="d", request=request), whole, model().vlm
    )
    assert not {"first_look", "confidence"} & set(plain)


def test_of_all_requests_and_a_request_that_says_otherwise():
    requests = [Request(question("Why 0?"), [IMAGES[0]]), asked(0, "base")]
    text = Request("Why?")
    twice = model().engine("none", crops="auto@1", looks=["base"], config=SMALL)
    answers = twice.answer_all([*requests, text])
    assert [each.error for each in answers] == [None] * 3
    assert [each.crops for each in answers] == [CROPS, 1, 0]
    assert [bool(each.first_look) for each in answers] == [True, False, False]
    # Of text alone there is nothing more to see.
    assert answers[2].looked_at["crops"] == []
    assert answers[2].text == model().generate(prompt=text.prompt, budget="none")


def test_nobody_hears_a_look_that_may_not_stand():
    heard, twice = [], engine()
    number = twice.submit(asked(0, "auto@1"), listener=heard.append)
    answers = []
    while not twice.is_idle:
        answers += twice.step()
    (answer,) = answers
    assert answer.number == number
    assert heard
    for told in heard:
        assert told.tokens == answer.tokens[: len(told.tokens)]
    assert answer.tokens != answer.first_look.tokens


def look_at_base(twice):
    """Steps until the first look is over and the second waits."""
    while not twice.scheduler._base_looks:
        assert not twice.step()


def test_cancelled_or_late_between_both_looks():
    twice = engine()
    number = twice.submit(asked(0, "auto@1"))
    look_at_base(twice)
    assert twice.cancel(number)
    assert twice.is_idle
    late = twice.submit(asked(0, "auto@1"), seconds=60.0)
    look_at_base(twice)
    queued = twice.scheduler._requests[late]
    twice.scheduler._requests[late] = dataclasses.replace(queued, due=0.0)
    (answer,) = twice.step()
    assert (answer.number, answer.outcome) == (late, Outcome.EXPIRED)
    assert twice.is_idle
    # Nothing of both is left over for the next one.
    (answer,) = twice.answer_all([asked(0, "all")])
    assert answer.first_look is None
    assert answer.text == alone(asked(0, "all"), "all")


def test_what_cannot_be_looked_at_twice():
    (answer,) = model().engine("none", config=SMALL).answer_all([asked(0, "auto@1")])
    assert "looks=['auto@1.0']" in answer.error
    with pytest.raises(ValueError, match="must lie above 0 and up to 1"):
        AnswerOptions(crops="auto@2")
    with pytest.raises(ValueError, match="needs a threshold"):
        model().engine("none", looks=["auto"])
    cascade = "cascade:none,all@0.5"
    both = model().engine("none", budgets=[cascade], looks=["auto@1"], config=SMALL)
    (answer,) = both.answer_all([asked(0, "auto@1", cascade)])
    assert "leave cascades of budgets out" in answer.error


def test_both_wishes_for_all_requests_are_refused_at_once():
    with pytest.raises(ValueError, match="leave cascades of budgets out"):
        model().engine("cascade:none,all@0.5", crops="auto@1", config=SMALL)


def test_second_looks_wait_in_the_order_of_asking():
    """The oldest request has its turn, so nothing starves under unsure answers."""
    twice, waited = afresh(), 0
    for i in range(6):
        twice.submit(asked(i, "base+2" if i == 3 else "auto@1"))
    while not twice.is_idle:
        twice.step()
        numbers = [each.number for each in twice.scheduler.queue._prepared]
        assert numbers == sorted(numbers)
        waited = max(waited, len(twice.scheduler._base_looks))
    # Several second looks at once, so that there is an order.
    assert waited > 1


def test_a_checkpoint_that_never_saw_crops(tmp_path):
    """Its base view is an image of one crop; in the format of Hugging Face."""
    tile = prompt_cases.TILES[0]
    network = visor_jax.load(chat_run.save(tmp_path, tile))
    request = Request(question("Why?"), [random_image(tile + 4, 2 * tile, 0)])
    how = {"max_new_tokens": NEW_TOKENS}
    answers = [
        network.engine(
            crops=crops, config=dataclasses.replace(SMALL, slots=1, pending=1)
        ).answer_all([request], **how)[0]
        for crops in ("auto@1", f"auto@{sure_of_base(network, request)!r}")
    ]
    whole, base = (
        network.generate(request.images, request.prompt, crops=crops, **how)
        for crops in ("all", "base")
    )
    assert [each.error for each in answers] == [None, None]
    assert [each.text for each in answers] == [whole, base]
    assert answers[0].first_look.text == base


def sure_of_base(network: VisorModel, request: Request) -> float:
    """Returns a threshold that its answer to the base view just passes."""
    return sure_of(request, network, "all") * (1 - 1e-4)
