"""The official client asks a real server: answers are those of `model.generate`."""

import functools

import httpx
import jax
import numpy as np
import openai
import pytest

from tests.inference.server import served
from tests.tolerances import REORDERED
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.inference.server import gate

CHEAP, WHOLE = served.BUDGETS
PICTURE = served.picture()
THREE = [served.picture(30, 44, seed) for seed in (1, 2, 3)]
# What the server and `generate` are asked, in which budget.
PROMPTS = {
    "text": ("Tell me.", [], CHEAP),
    "one image": ("What is it?", [PICTURE], WHOLE),
    "three images": ("Same?", THREE, CHEAP),
}


@pytest.fixture(scope="module")
def server():
    with served.serving() as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


def create(client, text="Why?", pictures=(), budget=CHEAP, **how):
    return client.chat.completions.create(
        model="tiny",
        messages=served.messages(text, *pictures),
        extra_body={"budget": budget},
        **how,
    )


@functools.cache
def expected(name):
    """Returns what the library answers to a prompt."""
    text, pictures, budget = PROMPTS[name]
    return served.model().generate(pictures or None, text, budget)


@pytest.mark.parametrize("name", PROMPTS)
def test_answers_are_those_of_generate_whole_and_in_pieces(client, name):
    text, pictures, budget = PROMPTS[name]
    whole = create(client, text, pictures, budget)
    (choice,) = whole.choices
    assert choice.message.content == expected(name) != ""
    assert whole.model_extra["visor"]["budget"] == budget
    chunks = list(create(client, text, pictures, budget, stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == expected(name)
    assert sum(map(bool, pieces)) > 1
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (
        len(chunks) - 1
    )
    assert chunks[-1].choices[0].finish_reason == choice.finish_reason
    assert len({chunk.id for chunk in chunks}) == 1
    # The usage, and what VISOR says, are those of the whole answer.
    assert chunks[-1].usage == whole.usage
    streamed, said = chunks[-1].model_extra["visor"], whole.model_extra["visor"]
    assert streamed["dense_flops"] == said["dense_flops"]


def test_usage_and_flops_count_the_prompt_and_every_token(client):
    found = create(client, "How?", [served.picture(33, 21, 8)], max_tokens=3)
    request = served.messages("How?", served.picture(33, 21, 8))
    content = [{"type": "image", "url": request[0]["content"][0]["image_url"]["url"]}]
    content.append({"type": "text", "text": "How?"})
    model = served.model()
    batch = model.batch(None, [{"role": "user", "content": content}])
    text, image = int(batch.text_mask.sum()), int(batch.image_mask.sum())
    usage, visor = found.usage, found.model_extra["visor"]
    assert (usage.prompt_tokens, usage.completion_tokens) == (text + image, 3)
    crops = int((np.abs(batch.pixels[0]).sum((1, 2, 3)) > 0).sum())
    lengths = {"text_tokens": text, "image_tokens": image, "crops": crops}
    row = model.cost(CHEAP, **lengths)
    flops = visor["flops"]
    parts = (flops["tower"], flops["projector"], flops["llm_prefill"])
    assert parts == (row.tower, row.projector, row.llm_prefill)
    assert flops["total"] == sum(flops.values()) - flops["total"]
    dense = visor["dense_flops"]
    assert dense["llm_prefill"] == round(row.llm_prefill * row.llm_saving)
    assert visor["saving"] == pytest.approx(dense["total"] / flops["total"])
    assert visor["image_reused"] is False
    again = create(client, "Who?", [served.picture(33, 21, 8)], max_tokens=3)
    assert again.model_extra["visor"]["image_reused"] is True
    assert again.model_extra["visor"]["flops"]["tower"] == 0


def test_stop_strings_end_an_answer_before_them(client):
    text, pictures, budget = PROMPTS["text"]
    answer = expected("text")
    stop = answer[len(answer) // 2]
    before = answer[: answer.index(stop)]
    found = create(client, text, pictures, budget, stop=[stop, "never there"])
    assert found.choices[0].message.content == before
    assert found.choices[0].finish_reason == "stop"
    streamed = create(client, text, pictures, budget, stop=stop, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == before
    assert create(client, text, [], budget).choices[0].finish_reason == "length"


def test_a_seed_draws_what_generate_draws(client):
    drawn = {}
    for seed in (5, 6):
        how = {"temperature": 1.5, "top_p": 0.9, "seed": seed}
        drawn[seed] = create(client, "Draw.", **how).choices[0].message.content
    assert drawn[5] != drawn[6]
    wanted = served.model().generate(
        None,
        "Draw.",
        CHEAP,
        sampling=Sampling(temperature=1.5, top_p=0.9),
        key=jax.random.key(5),
    )
    assert drawn[5] == wanted


def test_log_probabilities_are_those_of_the_network(client):
    text, _, budget = PROMPTS["text"]
    found = create(client, text, [], budget, logprobs=True)
    told = found.choices[0].logprobs.content
    assert len(told) == found.usage.completion_tokens == served.NEW_TOKENS
    logits = served.model().logits(None, text, budget)[-1].astype(np.float64)
    best = logits.max() - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    np.testing.assert_allclose(told[0].logprob, best, **REORDERED)
    assert told[0].token == served.model().processor.text([int(logits.argmax())])
    chunks = create(client, text, [], budget, logprobs=True, stream=True)
    streamed = [
        each
        for chunk in chunks
        if chunk.choices[0].logprobs
        for each in chunk.choices[0].logprobs.content
    ]
    assert [each.token for each in streamed] == [each.token for each in told]
    both = [[each.logprob for each in written] for written in (streamed, told)]
    np.testing.assert_allclose(*both, **REORDERED)
    assert create(client, text, [], budget).choices[0].logprobs is None


def test_what_is_known_at_once_is_sent_at_once(client, monkeypatch):
    sent, send = [], gate._Passage.send

    async def noting(passage, message):
        sent.append(message)
        await send(passage, message)

    monkeypatch.setattr(gate._Passage, "send", noting)
    # Of one token the first is the end; of all of them later ones come.
    for count, at_once in ((1, True), (served.NEW_TOKENS, False)):
        sent.clear()
        chunks = list(create(client, stream=True, max_tokens=count))
        assert len(chunks) >= 3
        parts = [m["body"] for m in sent if m.get("body")]
        assert (len(parts) == 1) is at_once
        events = b"".join(parts).split(b"\n\n")
        assert events[-2:] == [b"data: [DONE]", b""]
        assert len(events) == len(chunks) + 2


def test_the_usage_comes_in_a_chunk_of_its_own_if_it_is_asked_for(client):
    options = {"include_usage": True}
    *chunks, last = create(client, stream=True, stream_options=options)
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)
    assert last.choices == []
    assert last.usage.completion_tokens == served.NEW_TOKENS


def test_the_model_says_what_it_is(server, client):
    (listed,) = client.models.list().data
    assert client.models.retrieve("tiny") == listed
    assert sorted(listed.model_extra["visor"]["budgets"]) == sorted(served.BUDGETS)
    assert httpx.get(f"{server.origin}/health", timeout=600).json()["status"] == "ready"


@pytest.mark.parametrize(
    ("how", "error", "code"),
    [
        ({"n": 2}, openai.BadRequestError, None),
        ({"extra_body": {"colour": "red"}}, openai.BadRequestError, None),
        ({"extra_body": {"budget": "sa1:2"}}, openai.UnprocessableEntityError, None),
        ({"extra_body": {"budget": "auto"}}, openai.UnprocessableEntityError, None),
        ({"extra_body": {"cost": 1.0}}, openai.UnprocessableEntityError, None),
        ({"model": "other"}, openai.NotFoundError, "model_not_found"),
        (
            {"messages": [{"role": "user", "content": "x" * 500}]},
            openai.UnprocessableEntityError,
            None,
        ),
    ],
)
def test_errors_are_in_the_form_of_the_interface(client, how, error, code):
    body = {"model": "tiny", "messages": served.messages("Why?"), **how}
    for stream in (False, True):
        with pytest.raises(error) as raised:
            client.chat.completions.create(stream=stream, **body)
        told = raised.value.body
        assert set(told) == {"message", "type", "param", "code"}
        assert told["code"] == code
        assert len(told["message"]) > 10


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "application/json"),
        (b'{"model": "tiny"', "application/json"),
        (b"[]", "application/json"),
        (b'{"model": "tiny", "messages": 7}', "application/json"),
        (b'"\xff"', "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"a=b", "application/x-www-form-urlencoded"),
        (b"", "application/json"),
    ],
)
def test_what_is_no_body_is_an_error_of_its_sender(server, body, kind):
    url = f"{server.url}/chat/completions"
    found = httpx.post(url, content=body, headers={"content-type": kind}, timeout=600)
    assert found.status_code == 400
    assert found.json()["error"]["type"] == "invalid_request_error"


def test_other_addresses_and_methods(server):
    for method, path, status in [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
    ]:
        found = httpx.request(method, f"{server.origin}{path}", timeout=600)
        assert found.status_code == status
        assert found.json()["error"]["message"]


def test_everything_is_counted(server, client):
    def value(name):
        text = httpx.get(f"{server.origin}/metrics", timeout=600).text
        lines = [line.split() for line in text.splitlines() if line[0] != "#"]
        return sum(float(number) for key, number in lines if key == name)

    names = {
        "visor_generated_tokens_total": 4,
        f'visor_answers_total{{budget="{CHEAP}"}}': 1,
        "visor_time_to_first_token_seconds_count": 1,
        "visor_time_per_output_token_seconds_count": 1,
        'visor_prompt_tokens_total{kind="image"}': 0,
    }
    before = {name: value(name) for name in names}
    found = create(client, max_tokens=4).model_extra["visor"]
    grown = {name: value(name) - before[name] for name in names}
    assert grown == names
    assert value("visor_flops_spent_total") > found["flops"]["total"]
    # Servers before this one may have compiled the others.
    assert value("visor_compiled_programs_total") >= 1
    leaves = jax.tree.leaves(served.model().params)
    assert value("visor_device_bytes") > sum(leaf.nbytes for leaf in leaves)
    for name in ("requests_in_engine", "requests_queued", "slots_busy"):
        assert value(f"visor_{name}") == 0
    assert value("visor_slots") == served.ENGINE.slots * len(served.BUDGETS)
    threads = [f'visor_thread_cpu_seconds{{thread="{t}"}}' for t in ("engine", "http")]
    spent = [value(name) for name in threads]
    assert all(seconds > 0 for seconds in spent)
    assert sum(spent) <= value("process_cpu_seconds_total") + 0.05
