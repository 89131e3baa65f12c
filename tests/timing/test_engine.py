"""`python -m visor_jax.timing.engine`: what runs in which order, what it refuses."""

import itertools
import os
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

import visor_jax
from tests.inference import page_run
from visor_jax.budget import BudgetSet
from visor_jax.inference.engine.engine_config import EngineConfig
from visor_jax.inference.routing.router import HostRouter
from visor_jax.models.variants import llava_ov_0p5b
from visor_jax.policy.network import PolicyConfig, new_policy
from visor_jax.timing import engine as engine_time
from visor_jax.timing.engine import AUTO, MIXED, TOLD, Timed, policy_cost, predicted

POLICY = PolicyConfig(num_budgets=2, hidden_widths=(4,))
NAMES = ["sa0", "sa2:1,2"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A network with a policy whose choices differ."""
    new = new_policy(POLICY, page_run.CONFIG.decoder.width, jax.random.key(1))
    rng = np.random.default_rng(2)
    policy = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), new)
    return page_run.save(
        tmp_path_factory.mktemp("policy"),
        {**page_run.parameters(), "policy": policy},
        budgets=NAMES,
        policy={"config": POLICY.to_dict(), "costs": {NAMES[0]: 0.1, NAMES[1]: 1.0}},
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A network without a policy."""
    return page_run.save(tmp_path_factory.mktemp("plain"), page_run.parameters())


class FakeModel:
    """Engines that ask their routers and answer nothing."""

    def engine(self, router, **options):
        assert options["images_kept"] == 0
        return FakeEngine(router)


class FakeEngine:
    def __init__(self, router):
        self.router = router

    def answer_all(self, requests):
        chosen = self.router.choose(np.zeros((len(requests), 0)), requests)
        budgets = [self.router.budgets[k] for k in chosen]
        return [types.SimpleNamespace(budget=b, error=None) for b in budgets]


def test_all_ways_of_choosing_take_turns_and_give_the_same_budgets(monkeypatch):
    requests = engine_time.page_requests(10)
    budgets = BudgetSet.parse(NAMES, page_run.CONFIG.plan).budgets
    wished = dict(zip(map(id, requests), [0, 1, 1, 0, 1] * 2, strict=True))
    policy = HostRouter(budgets, lambda request: wished[id(request)])
    ran, now = [], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def answer_all(engine, asked):
        found = answer(engine, asked)
        names = [each.budget.name for each in found]
        ran.append((type(engine.router).__name__, names))
        # The first run takes one second, the second two, and so on.
        now[0] += len(ran)
        return found

    answer = FakeEngine.answer_all
    monkeypatch.setattr(FakeEngine, "answer_all", answer_all)
    times = engine_time.engine_times(
        FakeModel(), requests, budgets, policy=policy, config=EngineConfig(), repeats=2
    )
    order = [AUTO, TOLD, MIXED, *NAMES]
    assert list(times) == order
    # There, back, and there again; the first round is not counted.
    assert times[AUTO].seconds == (10.0, 11.0)
    assert times[TOLD].seconds == (9.0, 12.0)
    found = dict.fromkeys(order)
    for (engine, given), name in zip(ran, [*order, *order[::-1], *order], strict=True):
        assert (engine == "Remembering") == (name == AUTO)
        assert found[name] in (None, given)
        found[name] = given
    assert found[AUTO] == found[TOLD] == [NAMES[k] for k in wished.values()]
    assert found[MIXED] == NAMES * 5
    assert [found[name] for name in NAMES] == [[name] * 10 for name in NAMES]
    assert times[TOLD].shares == {NAMES[0]: 4, NAMES[1]: 6}
    alone = engine_time.engine_times(
        FakeModel(), requests, budgets, config=EngineConfig(), repeats=1
    )
    assert list(alone) == [MIXED, *NAMES]


def test_predictions_and_the_policys_cost_by_hand():
    times = {
        "sa0": Timed((1.0, 1.0), {"sa0": 4}),
        "sa2:1,2": Timed((3.0, 3.0), {"sa2:1,2": 4}),
        AUTO: Timed((2.6, 5.6, 2.4), {"sa0": 3, "sa2:1,2": 1}),
        TOLD: Timed((2.0, 5.0, 2.0), {"sa0": 3, "sa2:1,2": 1}),
    }
    assert predicted(times, AUTO) == pytest.approx(1.5)
    # The slow second round was slow for both.
    assert policy_cost(times) == pytest.approx(0.6)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "visor_jax.timing.engine", *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_table_says_what_the_policy_costs(workdir):
    # Fewer rows than images that are encoded at once by default.
    done = run(f"--checkpoint={workdir}", "--questions=4", "--rows=2", "--repeats=1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    names = [line[:16].strip() for line in itertools.islice(lines, 2, 7)]
    assert names == [AUTO, TOLD, MIXED, *NAMES]
    assert lines[-1].startswith("the policy: ")
    assert "of the same choices without it" in lines[-1]


class Options:
    """Flags as `main` sees them."""

    def __init__(self, **given):
        self.budgets, self.cost = given.get("budgets"), given.get("cost")


def test_a_cost_that_nothing_heeds_is_refused(workdir, plain):
    with_policy, without = visor_jax.load(workdir), visor_jax.load(plain)
    with pytest.raises(ValueError, match="--cost=5 is for a policy, and this checkp"):
        engine_time._choices(without, Options(cost=5.0))
    with pytest.raises(ValueError, match=r"--cost=0 is for .* --budgets leaves it out"):
        engine_time._choices(with_policy, Options(cost=0.0, budgets="none,all"))
    policy, budgets = engine_time._choices(with_policy, Options(cost=5.0))
    assert policy is not None
    assert [budget.name for budget in budgets] == NAMES


def test_networks_that_read_no_pages_are_refused(tmp_path):
    model = llava_ov_0p5b().to_dict()
    page_run.save(tmp_path, {"a": np.zeros(1)}, model=model, budgets=["sa0"])
    done = run(f"--checkpoint={tmp_path}")
    assert done.returncode == 2
    assert "cannot answer the embedded benchmark" in done.stderr
    assert len(done.stderr.splitlines()) == 1
