"""The whole comparison with networks that compile in a moment."""

import copy
import dataclasses
import json
import re

import numpy as np
import pytest

from tests.evals import small
from tests.tiny import params_of
from visor_jax.budget import BudgetSet
from visor_jax.evals import timing
from visor_jax.evals.baselines import report as reports
from visor_jax.evals.baselines import times
from visor_jax.evals.baselines.conditions import (
    CONTROL,
    DENSE,
    EARLY,
    UNIVERSAL,
    Asked,
    Condition,
    comparison,
)
from visor_jax.evals.baselines.kept_tokens import kept_tokens
from visor_jax.evals.baselines.markdown import report_text
from visor_jax.evals.baselines.measure import Subject, costs
from visor_jax.evals.baselines.one_by_one import answered
from visor_jax.evals.baselines.outcome import Outcome
from visor_jax.evals.baselines.rows import Chosen, row_of
from visor_jax.evals.baselines.times import Timed, describe, milliseconds
from visor_jax.evals.harness import predict
from visor_jax.evals.pages.benchmark import PROMPT_LENGTHS
from visor_jax.evals.report.report import ReportFacts
from visor_jax.evals.report.rows import RunFacts
from visor_jax.models.variants import dense
from visor_jax.token_reduction.registry import fitted, parse

BUDGETS = small.BUDGETS
FACTS = RunFacts(preset="mini", seed=0, train_steps=9, wall_clock_s=60.0)
ASKED = Asked(
    methods=("fastv", "uniform", "base_view"),
    shares=(1 / 16,),
    budgets=BUDGETS.budgets,
    reference=BUDGETS.budgets[:1],
    combined=("uniform",),
    combined_shares=(1 / 2,),
)


@pytest.fixture(scope="module")
def visor():
    return small.network(small.answering_params(2))


@pytest.fixture(scope="module")
def subjects(visor):
    config = dense(small.CONFIG)
    budgets = BudgetSet.parse(["all"], config.plan)
    params = params_of(config)["params"]
    network = dataclasses.replace(visor, config=config, params=params, budgets=budgets)
    return {
        DENSE: [Subject(network=network, seed=0)],
        UNIVERSAL: [Subject(network=visor, seed=0)],
    }


@pytest.fixture(scope="module")
def study(subjects, benchmark, tmp_path_factory):
    configs = (subjects[name][0].network.config for name in (DENSE, UNIVERSAL))
    return reports.Study(
        comparison=comparison(*configs, ASKED, PROMPT_LENGTHS),
        subjects=subjects,
        benchmark=benchmark,
        prompt=PROMPT_LENGTHS,
        out=tmp_path_factory.mktemp("baselines"),
        facts=[(DENSE, FACTS), (UNIVERSAL, FACTS)],
    )


@pytest.fixture(scope="module")
def found(study):
    return reports.outcomes(study)


@pytest.fixture(scope="module")
def report(study, found):
    taken = {
        condition.name: {1: 2.0 + i, 32: 1.0 + i}
        for i, condition in enumerate(study.comparison.conditions)
    }
    (study.out / reports.TIMES).write_text(json.dumps({"machine": "a machine"}))
    count = len(study.benchmark)
    chosen = Chosen(budgets=BUDGETS.budgets, classes=np.arange(count) % 2)
    made = ReportFacts(git_commit="0" * 40, machine="a machine", command="a command")
    timed = Timed(taken, [taken["dense"]])
    return reports.write(study, found, timed, made, reference=["sa0"], chosen=[chosen])


def test_conditions_are_named_once_and_what_cannot_be_is_said(study):
    names = [each.name for each in study.comparison.conditions]
    assert len(set(names)) == len(names)
    assert names[:3] == ["dense", "VISOR sa0", "VISOR sa1:1"]
    assert "uniform:keep=0.0625" in names
    assert "VISOR sa0 + uniform:keep=0.5" in names
    refused = study.comparison.refused
    assert "there are no tiles" in refused["base_view"]
    assert "cannot reach average=9" in refused["fastv at 0.0625 of the tokens"]


def test_earlier_layers_are_taken_where_the_authors_cannot_reach_a_mean(subjects):
    config = subjects[DENSE][0].network.config
    asked = Asked(methods=("fastv", "pyramiddrop"), shares=(1, 1 / 2))
    found = comparison(config, None, asked, PROMPT_LENGTHS)
    assert [each.name for each in found.conditions[1:3]] == [
        "fastv:average=144",
        "fastv:layer=1,average=72",
    ]
    assert [each.shown for each in found.conditions[1:3]] == [False, True]


def test_at_a_budgets_flops_a_method_has_all_the_tokens_that_fit(study):
    (matched,) = (
        c for c in study.comparison.conditions if c.matched and c.method == "uniform"
    )
    (reference,) = (c for c in study.comparison.conditions[1:2])
    assert reference.budget.name == matched.matched
    most = study.costs(reference).flops["llm_prefill"]
    cost = study.costs(matched)
    assert cost.flops["llm_prefill"] <= most
    tokens = cost.image_lengths[0]
    more = f"uniform:keep={(tokens + 1) / 144 + 1e-4:.4f}"
    subject = study.subjects[DENSE][0]
    dearer = dataclasses.replace(matched, reduce=more)
    cost = costs(subject.at(dearer), dearer, PROMPT_LENGTHS)
    assert cost.image_lengths[0] == tokens + 1
    assert cost.flops["llm_prefill"] > most


def test_scores_are_those_of_the_network_asked_by_itself(study, found, benchmark):
    subject = study.subjects[UNIVERSAL][0]
    alone = predict(subject.network, benchmark)
    for row, budget in enumerate(BUDGETS):
        (outcome,) = found[f"VISOR {budget.name}"]
        assert outcome.scores == tuple(alone.main_scores[row])


def test_a_stopped_run_asks_only_what_is_not_there(study, found, monkeypatch):
    assert study.done() == len(study.work)
    lacking = study.file(*study.work[3])
    lacking.unlink()
    asked = []

    def measured(subject, condition, *_):
        asked.append(condition.name)
        return found[condition.name][0]

    monkeypatch.setattr(reports, "measured", measured)
    again = reports.outcomes(study)
    assert asked == [study.work[3][1].name]
    assert again == found
    lacking.write_text("{}")
    with pytest.raises(ValueError, match="is no row of this comparison"):
        Outcome.read(lacking)
    found[asked[0]][0].write(lacking)


def test_the_report_sets_methods_beside_visor(report, study):
    text = (study.out / "report.md").read_text()
    for name in ("accuracy_vs_flops", "accuracy_vs_time", "kept_tokens"):
        assert f"{name}.png" in text
        assert (study.out / f"{name}.png").stat().st_size > 10_000
    assert "## At equal cost" in text
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["dense"]["llm_share"] == 1
    auto, two = rows["VISOR auto"], [rows[f"VISOR {b.name}"] for b in BUDGETS]
    for key in ("llm_share", "cache_bytes"):
        assert auto[key] == pytest.approx(np.mean([row[key] for row in two]))
    assert auto["ms"]["32"] == pytest.approx(np.mean([r["ms"]["32"] for r in two]))
    assert report == json.loads((study.out / "report.json").read_text())


def test_the_best_method_says_where_it_has_fewer_seeds(report):
    assert "of 2 seeds)" not in report_text(report)
    more = copy.deepcopy(report)
    for row in more["rows"]:
        if row["name"].startswith("VISOR"):
            row["seeds"] = [0, 1]
        # Controls have columns of their own, without names.
        row["kind"] = EARLY if row["kind"] == CONTROL else row["kind"]
    (section,) = report_text(more).split("## At equal cost")[1].split("\n## ")[:1]
    named = [line for line in section.splitlines() if "keep=" in line]
    assert named
    assert all("` (1 of 2 seeds)" in line for line in named)


def test_seeds_become_rows_of_means(study):
    condition = study.comparison.conditions[1]
    one = Outcome(
        name=condition.name,
        seed=0,
        tasks=("ring", "read"),
        task=(0, 1) * 4,
        cluster=(0, 0, 1, 1, 2, 2, 3, 3),
        scores=(1, 0, 1, 0, 1, 1, 1, 0),
        answers={},
    )
    two = dataclasses.replace(one, seed=1, scores=(1, 0, 1, 1, 1, 1, 1, 1))
    groups, times = {"easy": ("ring",), "hard": ("read",)}, {condition.name: {1: 1.0}}
    row = row_of(condition, [one, two], study.costs(condition), groups, times)
    assert row["seeds"] == [0, 1]
    assert row["accuracy"] == {"easy": 1.0, "hard": 0.5}
    assert row["spread"]["hard"]["values"] == [0.25, 0.75]
    assert row["ms"] == {"1": 1.0}


@pytest.mark.parametrize("spec", ["uniform:keep=0.25", "sparsevlm:layers=0,keep=5"])
def test_kept_tokens_are_those_that_the_last_layer_sees(subjects, benchmark, spec):
    subject = subjects[DENSE][0]
    condition = Condition(
        network=DENSE, kind=DENSE, budget=subject.network.budgets.largest, reduce=spec
    )
    network = subject.at(condition)
    batch = timing.prompts(network, benchmark, 2)
    kept = kept_tokens(network.vlm, network.params, batch, condition.budget)
    wanted = {"uniform": 36, "sparsevlm": 5}[condition.method]
    # A cluster of one is the token itself; other merged ones are nobody's any more.
    clusters = 5 if condition.method == "sparsevlm" else 0
    assert all(wanted <= len(row) <= wanted + clusters for row in kept)
    if condition.method == "uniform":
        assert kept[0] == tuple(range(0, 144, 4))
    else:
        assert kept[0] != kept[1]


def test_questions_one_by_one_are_answered_as_the_engine_answers(subjects, benchmark):
    network = dataclasses.replace(
        subjects[UNIVERSAL][0].network,
        reducer=fitted(parse("fastv:layer=1,keep=0.1"), small.CONFIG),
    )
    budget = BUDGETS.largest
    one = answered(network, benchmark, budget, PROMPT_LENGTHS, rows=16)
    engine = predict(network, benchmark, BudgetSet(small.CONFIG.plan, (budget,)))
    assert one.answers == engine.answers
    assert one.ids == engine.ids
    assert any(one.answers[0])


def test_all_conditions_are_timed_at_all_sizes(subjects, study):
    three = study.comparison.conditions[:3]
    firsts = {name: each[0] for name, each in subjects.items()}
    asked, compiled = (firsts, three, study.benchmark), []
    sizes = {"batches": (1, 2), "runs": 1}
    found = milliseconds(*asked, **sizes, progress=compiled.append)
    assert compiled == [4, 6, 6]
    assert {name: list(each) for name, each in found.times.items()} == {
        condition.name: [1, 2] for condition in three
    }
    assert all(ms > 0 for each in found.times.values() for ms in each.values())
    (alone,) = found.first
    assert alone == found.times[three[0].name]
    assert "groups" not in describe("page", found)


def test_what_is_too_much_for_a_process_is_timed_in_groups(
    subjects, study, monkeypatch
):
    """One condition after the other, each beside the first two."""
    four = study.comparison.conditions[:4]
    firsts = {name: each[0] for name, each in subjects.items()}
    sizes = {"batches": (2,), "runs": 1}
    asked = (firsts, four, study.benchmark)
    names = [condition.name for condition in four]
    # A machine that is twice, and three times, as slow later on; and then not for all.
    slower = iter(((1.0, 1.0), (2.0, 2.0), (3.0, 3.3)))

    def turns(programs, **_):
        of_first, of_others = next(slower)
        own = {name: 0.1 * (1 + i) * of_others for i, name in enumerate(names)}
        own[names[0]] = 0.1 * of_first
        return {key: [own[key[0]]] for key in programs}

    monkeypatch.setattr(times, "take_turns", turns)
    found = milliseconds(*asked, **sizes, room=lambda: False)
    assert [each[2] for each in found.first] == pytest.approx([50.0, 100.0, 150.0])
    assert [each[2] for each in found.second] == pytest.approx([100.0, 100.0, 110.0])
    taken = [found.times[name][2] for name in names]
    assert taken == pytest.approx([50.0, 100.0, 150.0, 220.0])
    said = (
        r"3 groups, scaled by the first condition, .* \(50\.00 to 150\.00 ms at 2\)"
        r".* second condition, in each as well, scaled: 100\.00 to 110\.00 ms at 2"
    )
    assert re.search(said, describe("page", found))
