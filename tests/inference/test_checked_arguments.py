"""Whatever a caller gives to a public method: an answer, or one error that names it."""

import base64
import io

import jax
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import visor_jax
from tests.inference import page_run
from tests.inference.strange_arguments import STRANGE, assert_error_is_ours
from visor_jax.budget import Budget
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.engine.engine_config import EngineConfig
from visor_jax.inference.visor_model import VisorModel

QUESTION = "digit row 2 column 3"
DRAWN = Sampling(temperature=1.5)
SMALL = EngineConfig(
    rows=1, pending=2, slots=2, requests_per_row=2, new_tokens=4, images_at_once=1
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    run = page_run.save(tmp_path_factory.mktemp("run"), page_run.parameters())
    return visor_jax.load(run)


@pytest.fixture(scope="module")
def engine(model):
    return model.engine("none", config=SMALL)


@pytest.fixture(autouse=True)
def no_annotation_checks():
    """Strange types must meet the package's own checks, as they do in production."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_a_text_is_one_question(engine):
    (answer,) = engine.ask_many(page_run.page(), QUESTION)
    (expected,) = engine.ask_many(page_run.page(), [QUESTION])
    assert answer.error is None
    assert answer.text == expected.text


def test_open_files_are_images_even_when_they_are_closed(model, tmp_path):
    file = tmp_path / "a page.png"
    Image.fromarray(page_run.page()).save(file)
    content = file.read_bytes()
    with file.open("rb") as opened:
        requests = [Request(QUESTION, opened), Request(QUESTION, [opened])]
    stream = io.BytesIO(content)
    stream.read()
    uri = file.as_uri()
    assert "%20" in uri
    images = (stream, bytearray(content), memoryview(content), uri)
    requests += [Request(QUESTION, image) for image in images]
    expected = model.logits(page_run.page(), QUESTION, "none")
    for request in requests:
        found = model.logits(request.images, QUESTION, "none")
        np.testing.assert_array_equal(found, expected)
    with file.open() as text, pytest.raises(ValueError, match="'rb'"):
        Request(QUESTION, text)


def test_seeds_and_keys_of_both_kinds_draw_alike(model):
    def drawn(key):
        return model.generate(
            page_run.page(), QUESTION, "none", sampling=DRAWN, key=key
        )

    expected = drawn(jax.random.key(7))
    for key in (7, np.int64(7), jax.random.PRNGKey(7), np.array([0, 7], np.uint32)):
        assert drawn(key) == expected
    for key in (2**64, 10**20, "7", 1.0, True, np.zeros(3), [1]):
        with pytest.raises(ValueError, match=r"key.*jax\.random\.key"):
            drawn(key)


def test_numbers_of_numpy_are_numbers(model):
    image, two = page_run.page(), np.int64(2)
    sampling = Sampling(temperature=np.float32(1), top_k=two, also_used=(np.int32(1),))
    assert sampling == Sampling(temperature=1.0, top_k=2, also_used=(1,))
    assert type(sampling.top_k) is int
    found = model.generate(image, QUESTION, "none", max_new_tokens=two)
    assert found == model.generate(image, QUESTION, "none", max_new_tokens=2)
    assert EngineConfig(rows=two) == EngineConfig(rows=2)


def test_what_is_no_request_leaves_the_others(engine):
    """...in an engine; where all are given at once, nothing is begun."""
    good = Request(QUESTION, page_run.page())
    number = engine.submit(good)
    for wrong in ("Hi", None, 3, {"prompt": "Hi"}):
        with pytest.raises(ValueError, match=r"request=.* is no Request"):
            engine.submit(wrong)
    mixed = [
        good,
        "Hi",
        None,
        Request([{"role": "user"}]),
        Request(QUESTION, 7 * [b""]),
        good,
    ]
    found = {a.number: a for a in engine.answers(mixed)}
    assert found.pop(number).error is None
    errors = [found[n].error for n in sorted(found)]
    assert errors[0] is errors[-1] is None
    assert "'Hi' is no Request" in errors[1]
    assert "None is no Request" in errors[2]
    assert len(errors) == len(mixed)
    assert all(errors[1:-1])


def test_options_of_a_request_are_options():
    with pytest.raises(ValueError, match=r"options={'seed': 3} is no AnswerOptions"):
        Request(QUESTION, options={"seed": 3})


def test_what_is_no_list_of_requests_is_refused(model, engine):
    for wrong in ("Hi", None, 3, Request(QUESTION), {"prompt": "Hi"}):
        for function in (model.generate_all, model.choose, engine.answer_all):
            with pytest.raises(ValueError, match=r"requests=.* is no list of requests"):
                function(wrong)
    with pytest.raises(ValueError, match=r"requests\[0\]='Hi' is no Request"):
        model.generate_all(["Hi"])


@pytest.mark.parametrize("budget", [[1], ["all"], 2, b"all", True, ("all",), object()])
def test_what_is_no_budget_is_named(model, budget):
    for function in (
        lambda: model.generate(page_run.page(), QUESTION, budget),
        lambda: model.cost(budget),
    ):
        with pytest.raises(ValueError, match=r"budget=.* is neither a name"):
            function()
    with pytest.raises(ValueError, match=r"is neither the name of a budget"):
        model.engine(budget)


@pytest.mark.parametrize("path", [None, 3, "", b"", ["a"]])
def test_what_is_no_path_is_named(path):
    with pytest.raises(ValueError, match=r"path_or_id=.* is neither a path"):
        visor_jax.load(path)


def test_parts_of_openai_are_read_in_a_chat(model):
    content = io.BytesIO()
    Image.fromarray(page_run.page()).save(content, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    expected = model.generate(page_run.page(), QUESTION, "none")
    for image, text in (
        ({"type": "image_url", "image_url": {"url": uri}}, "text"),
        ({"type": "input_image", "image_url": uri}, "input_text"),
    ):
        content = [image, {"type": text, "text": QUESTION}]
        found = model.chat([{"role": "user", "content": content}], "none")
        assert found == expected


# Of every method its arguments, each of which is given something strange in turn.
METHODS = {
    "generate": {"images", "prompt", "budget", "videos", "max_new_tokens", "sampling"},
    "chat": {"messages", "budget", "images", "videos", "max_new_tokens", "cost"},
    "generate_all": {"requests", "budget", "batch_size", "max_new_tokens", "key"},
    "stream": {"images", "prompt", "budget", "videos", "max_new_tokens", "key", "cost"},
    "read": {"request", "budget", "max_new_tokens", "cost"},
    "pieces": {"prompt", "sampling", "key"},
    "look": {"prompt", "sampling", "key"},
    "cascade": {"name"},
    "choose": {"requests", "budget", "cost"},
    "engine": {"budget", "cost", "config", "sampling", "key", "images_kept", "log"},
    "logits": {"images", "prompt", "budget", "videos"},
    "logits_of": {"batch", "budget"},
    "batch": {"images", "prompt", "videos", "max_new_tokens"},
    "cost": {"budget", "text_tokens", "image_tokens", "crops", "logit_positions"},
    "budget": {"budget"},
    "latency": {"batch", "budget", "max_new_tokens"},
}
ENGINE_METHODS = {
    "submit": {"request", "max_new_tokens", "seconds", "listener"},
    "cancel": {"number"},
    "answers": {"requests", "max_new_tokens"},
    "rounds": {"requests", "max_new_tokens"},
    "answer_all": {"requests", "max_new_tokens"},
    "ask_many": {"image", "questions", "max_new_tokens"},
    "warm_up": {"buckets", "budgets", "report"},
}


def test_every_public_method_is_tried():
    def public(kind):
        names = {n for n, v in vars(kind).items() if callable(v) and n[0] != "_"}
        # These take nothing that could be strange.
        return names - {"step", "forget_images"}

    assert set(METHODS) == public(VisorModel)
    assert set(ENGINE_METHODS) == public(Engine)


def fine(model):
    """Returns good arguments, to which all but one keep."""
    request = Request(QUESTION, page_run.page())
    return {
        "images": page_run.page(),
        "prompt": QUESTION,
        "budget": "none",
        "max_new_tokens": 1,
        "messages": [{"role": "user", "content": QUESTION}],
        "request": request,
        "requests": [request],
        "image": page_run.page(),
        "questions": [QUESTION],
        "batch": model.batch(page_run.page(), QUESTION),
    }


@settings(max_examples=150, derandomize=True)
@given(st.data())
def test_strange_arguments_meet_a_check_of_ours(model, engine, data):
    kind = data.draw(st.sampled_from(["model", "engine"]))
    methods = METHODS if kind == "model" else ENGINE_METHODS
    name = data.draw(st.sampled_from(sorted(methods)))
    argument = data.draw(st.sampled_from(sorted(methods[name])))
    strange = data.draw(STRANGE)
    known = fine(model)
    if name in ("pieces", "look"):
        known["prompt"] = model.read(known["request"], "none", max_new_tokens=1)
    given_ = {key: known[key] for key in methods[name] if key in known}
    if "messages" in given_:
        given_["images"] = known["images"]
    if argument == "key":
        given_["sampling"] = DRAWN
    if (name, argument) == ("warm_up", "report"):
        given_["budgets"] = []
    given_[argument] = strange
    target = model if kind == "model" else engine
    assert_error_is_ours(getattr(target, name), name, strange, **given_)


@settings(max_examples=200, derandomize=True)
@given(
    st.sampled_from(["temperature", "top_k", "top_p", "repetition_penalty"]), STRANGE
)
def test_strange_settings_of_sampling(name, strange):
    assert_error_is_ours(Sampling, name, strange, **{"temperature": 1.0, name: strange})


@settings(max_examples=200, derandomize=True)
@given(st.sampled_from(["rows", "slots", "memory_bytes", "new_tokens"]), STRANGE)
def test_strange_settings_of_an_engine(name, strange):
    assert_error_is_ours(EngineConfig, name, strange, **{name: strange})


@settings(max_examples=200, derandomize=True)
@given(st.sampled_from(["prompt", "images", "videos", "draw"]), STRANGE)
def test_strange_requests(name, strange):
    assert_error_is_ours(Request, name, strange, **{"prompt": "Hi", name: strange})


@settings(max_examples=200, derandomize=True)
@given(
    st.sampled_from(
        ["dtype", "chat_template", "special_tokens", "revision", "mesh", "path_or_id"]
    ),
    STRANGE,
)
def test_strange_arguments_of_load(name, strange):
    assert_error_is_ours(
        visor_jax.load, name, strange, **{"path_or_id": "gone/x/y", name: strange}
    )


@given(STRANGE)
def test_strange_budgets(strange):
    assert_error_is_ours(Budget, "self_layers", strange, self_layers=strange)
