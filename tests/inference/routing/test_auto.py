"""`budget="auto"`: the policy of a checkpoint chooses, everywhere in the same way."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import visor_jax
from tests import tiny
from tests.data.pages.prompt_batch import prompt_batch
from tests.inference import page_run
from visor_jax.budget import BudgetSet
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.inference.generation import generate
from visor_jax.inference.routing import choose_budgets
from visor_jax.models.vlm import VLM, run_trunk
from visor_jax.policy.network import PolicyConfig, new_policy

BUDGETS = BudgetSet.parse(page_run.BUDGETS, page_run.CONFIG.plan)
POLICY = PolicyConfig(num_budgets=len(BUDGETS), hidden_widths=(8,))
COSTS = {"sa0": 0.3, "sa1:1": 0.6, "sa2:1,2": 1.0}
QUESTIONS = ("ring", "digit row 2 column 3", "marked digit", "bar B", "page colour")


@pytest.fixture(scope="module")
def params():
    """Returns parameters whose policy chooses unlike budgets."""
    policy = new_policy(POLICY, page_run.CONFIG.decoder.width, jax.random.key(1))
    rng = np.random.default_rng(2)
    policy = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), policy)
    return {**page_run.parameters(), "policy": policy}


@pytest.fixture(scope="module")
def workdir(params, tmp_path_factory):
    described = {"config": POLICY.to_dict(), "costs": COSTS}
    folder = tmp_path_factory.mktemp("policy")
    return page_run.save(folder, params, policy=described, task="policy")


@pytest.fixture(scope="module")
def model(workdir):
    return visor_jax.load(workdir)


def requests():
    return [
        visor_jax.Request(question, page_run.page(seed))
        for seed in range(3)
        for question in QUESTIONS
    ]


@jax.jit
def trunk_of(network, batch):
    return VLM(page_run.CONFIG).apply({"params": network}, batch, method=run_trunk)


def expected(params, request, cost=0.0):
    """Returns the budget's name by plain arithmetic on one unpadded prompt."""
    page = request.images[0]
    batch = prompt_batch(page[None], [request.prompt])
    network = {k: v for k, v in params.items() if k != "policy"}
    trunk = trunk_of(network, tiny.on_device(batch))
    features = [trunk.text.hidden[0, -1], trunk.image.hidden[0].mean(axis=0)]
    x = np.concatenate([f / np.sqrt(np.mean(np.square(f)) + 1e-12) for f in features])
    layer = params["policy"]["hidden_0"]
    x = np.asarray(jax.nn.gelu(x @ layer["kernel"] + layer["bias"]))
    last = params["policy"]["logits"]
    logits = x @ last["kernel"] + last["bias"]
    worth = logits - cost * np.array([COSTS[name] for name in BUDGETS.names])
    return BUDGETS.names[int(worth.argmax())]


@pytest.mark.parametrize("cost", [0.0, 1.5])
def test_choices_are_those_of_the_arithmetic(model, params, cost):
    asked = requests()
    found = [budget.name for budget in model.choose(asked, cost=cost)]
    assert found == [expected(params, request, cost) for request in asked]
    if not cost:
        assert len(set(found)) > 1


def test_cost_turns_choices_to_the_extremes(model):
    asked = requests()
    assert {b.name for b in model.choose(asked, cost=1e4)} == {"sa0"}
    assert {b.name for b in model.choose(asked, cost=-1e4)} == {"sa2:1,2"}


def test_answers_are_those_of_the_chosen_budget(model):
    asked = requests()
    chosen = model.choose(asked)
    answers = [
        model.generate(request.images, request.prompt, budget)
        for request, budget in zip(asked, chosen, strict=True)
    ]
    assert model.generate_all(asked, "auto") == answers
    one = asked[1]
    assert model.generate(one.images, one.prompt, "auto") == answers[1]
    assert "".join(model.stream(one.images, one.prompt, "auto")) == answers[1]
    by_engine = model.engine("auto").answer_all(asked)
    assert [answer.text for answer in by_engine] == answers
    assert [answer.budget for answer in by_engine] == chosen


def test_a_request_may_say_what_costs_count_for_it(model, params):
    costs = [None, 1.5, -1e4, 1e4, 0.0]
    asked = [
        dataclasses.replace(each, options=AnswerOptions(budget="auto", cost=cost))
        for each, cost in zip(requests()[:5], costs, strict=True)
    ]
    # What it does not say is said of all.
    names = [
        expected(params, each, 1e4 if cost is None else cost)
        for each, cost in zip(asked, costs, strict=True)
    ]
    assert names[0] == names[3] == "sa0"
    assert names[2] == "sa2:1,2"
    answers = model.engine("auto", cost=1e4).answer_all(asked)
    assert [answer.budget.name for answer in answers] == names
    texts = [answer.text for answer in answers]
    assert model.generate_all(asked, "auto", cost=1e4) == texts
    wrong = dataclasses.replace(asked[1], options=AnswerOptions(budget="sa0", cost=1.5))
    with pytest.raises(ValueError, match=r"cost=1\.5 is for budget='auto'"):
        model.generate_all([wrong])
    (refused,) = model.engine("auto").answer_all([wrong])
    assert "cost=1.5 is for budget='auto'" in refused.error
    with pytest.raises(ValueError, match="cost=nan is no finite number"):
        AnswerOptions(cost=float("nan"))


def test_prompts_go_through_the_trunk_once(model, monkeypatch):
    """...and with them through the tower: neither is read again to answer."""
    asked = requests()[:7]
    expected = model.generate_all(asked, "auto", batch_size=4)
    read, rows = choose_budgets.read_trunk, []

    def counted(params, policy, batch, **how):
        rows.append(batch.size)
        return read(params, policy, batch, **how)

    def twice(*args, **how):
        raise AssertionError("A prompt is read again.")

    monkeypatch.setattr(choose_budgets, "read_trunk", counted)
    monkeypatch.setattr(choose_budgets, "prompt_logits", twice)
    monkeypatch.setattr(generate, "prefill", twice)
    assert model.generate_all(asked, "auto", batch_size=4) == expected
    assert rows == [4, 4]  # With one row of filler.
    read_prompt = model.read(asked[2], "auto")
    assert "".join(model.pieces(read_prompt)) == expected[2]
    assert rows == [4, 4, 1]


def test_answers_go_on_behind_one_trunk_as_options_say(model):
    """Named budgets, the policy's choices, drawing and lengths, all in one call."""
    options = [
        AnswerOptions(seed=3, sampling=Sampling(temperature=3.0)),
        AnswerOptions(budget="none"),
        AnswerOptions(budget="auto", max_new_tokens=1),
        AnswerOptions(),
        AnswerOptions(budget="all", seed=4, sampling=Sampling(temperature=3.0)),
        AnswerOptions(seed=5, sampling=Sampling(temperature=3.0), max_new_tokens=3),
    ]
    asked = [
        dataclasses.replace(request, options=said)
        for request, said in zip(requests()[3:], options, strict=False)
    ]
    alone = [model.generate_all([request], "auto")[0] for request in asked]
    assert model.generate_all(asked, "auto") == alone
    by_engine = model.engine("auto", budgets=["none", "all"]).answer_all(asked)
    assert [answer.text for answer in by_engine] == alone


def test_auto_without_a_policy_and_cost_without_auto_are_refused(model, tmp_path):
    plain = visor_jax.load(page_run.save(tmp_path, page_run.parameters()))
    page = page_run.page()
    for ask in (
        lambda: plain.generate(page, "ring", "auto"),
        lambda: plain.engine("auto"),
        lambda: plain.choose([visor_jax.Request("ring", page)]),
    ):
        with pytest.raises(ValueError, match=r"needs a policy.*sa0, sa1:1, sa2:1,2"):
            ask()
    with pytest.raises(ValueError, match=r"cost=2\.0 is for budget='auto'"):
        model.generate(page, "ring", "sa0", cost=2.0)
    with pytest.raises(ValueError, match=r"cost=2\.0 is for budget='auto'"):
        model.engine("sa0", cost=2.0)


def test_a_file_of_requests_is_answered(model, workdir, tmp_path):
    asked = requests()[:4]
    lines = []
    for number, request in enumerate(asked):
        Image.fromarray(request.images[0]).save(tmp_path / f"{number}.png")
        line = {"id": number, "image": f"{number}.png", "prompt": request.prompt}
        lines.append(json.dumps(line))
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "visor_jax.answer", f"--checkpoint={workdir}"),
            *(f"--input={tmp_path / 'in.jsonl'}", "--budget=auto", "--cost=0.5"),
            f"--output={tmp_path / 'out.jsonl'}",
        ],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    budgets = {answer["id"]: answer["budget"] for answer in found}
    wanted = [budget.name for budget in model.choose(asked, cost=0.5)]
    assert [budgets[number] for number in range(4)] == wanted
