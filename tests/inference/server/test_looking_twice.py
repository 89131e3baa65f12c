"""Requests to a server that look at the base view first: "crops": "auto@..."."""

import openai
import pytest

from tests.inference.server import served
from visor_jax.analysis.answer_looks import answer_looks
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.request import Request

# Cut into tiles: wider than one of them.
PICTURE = served.picture(2 * served.TILE - 12, 2 * served.TILE)
BUDGET = served.BUDGETS[0]


@pytest.fixture(scope="module")
def server():
    with served.serving(looks=("auto@1",)) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


def create(client, crops, **how):
    return client.chat.completions.create(
        model="tiny",
        messages=served.messages("What is it?", PICTURE),
        extra_body={"budget": BUDGET, "crops": crops},
        **how,
    )


def expected(crops):
    return served.model().generate(PICTURE, "What is it?", BUDGET, crops=crops)


def test_sure_and_unsure_whole_and_in_pieces(client):
    for crops, end in (("auto@1", "all"), ("auto@1e-9", "base")):
        whole = create(client, crops)
        assert whole.choices[0].message.content == expected(end)
        visor = whole.model_extra["visor"]
        assert len(visor["looked_at"]["crops"]) == (1 if end == "base" else 5)
        assert (end == "all") is ("first_look" in visor)
        assert 0 < visor["confidence"] <= 1
        chunks = list(create(client, crops, stream=True))
        told = [c.choices[0].delta.content or "" for c in chunks if c.choices]
        assert "".join(told) == expected(end)
    assert expected("all") != expected("base")


def test_what_a_server_lists_and_refuses(client, server):
    (model,) = client.models.list().data
    assert model.model_extra["visor"]["looks"] == ["all", "auto"]
    # Nobody has named the base view by itself.
    with pytest.raises(openai.UnprocessableEntityError, match="none of the engine's"):
        create(client, "base")
    with pytest.raises(openai.BadRequestError, match="needs a threshold"):
        create(client, "auto")


def test_the_heat_map_asks_which_crops_the_answer_saw():
    options = AnswerOptions(crops="auto@0.5")
    request = Request("What is it?", [PICTURE], options=options)
    with pytest.raises(ValueError, match="say which crops the answer saw"):
        answer_looks(served.model(), request, "So.", BUDGET)


def test_a_server_that_was_not_told_looks_once():
    with served.serving(looks=("base",)) as once:
        client = openai.OpenAI(base_url=once.url, api_key="none", max_retries=0)
        with pytest.raises(openai.UnprocessableEntityError, match="looks once"):
            create(client, "auto@1")
