"""Curves of a cascade against brute force over made-up answers, task by task."""

import dataclasses

import numpy as np
import pytest

from tests.evals import small
from tests.tolerances import REORDERED
from visor_jax.evals.benchmark import PromptLengths
from visor_jax.evals.cascade_curve import (
    at_threshold,
    curves_by_task,
    mixing_at,
    two_looks,
)
from visor_jax.evals.predictions import Predictions
from visor_jax.evals.recorder import Recorder
from visor_jax.evals.report.cascade_rows import (
    CascadeAnswers,
    cascade_rows,
    check_evaluated,
)
from visor_jax.evals.report.rows import EvaluatedRun, RunFacts, make_rows
from visor_jax.flops.account import account
from visor_jax.inference.routing.cascade import Cascade

FIRST, SECOND = small.BUDGETS.budgets
LENGTHS = PromptLengths(text_tokens=7, image_tokens=144, crops=1)
THRESHOLD = 0.6


def made_up(benchmark, seed=0, broken=()):
    """Returns scored answers; the surer the first one, the oftener it is right."""
    rng = np.random.default_rng(seed)
    recorder = Recorder(small.CONFIG, small.BUDGETS, benchmark)
    for example in benchmark.examples():
        number = recorder.ask(example)
        sure = rng.uniform(0.2, 1.0)
        for row, chance in enumerate((sure, 0.9)):
            answer = example.references[0] if rng.random() < chance else "bar"
            error = "damaged" if number in broken else None
            scored = {"confidence": sure if row == 0 else 0.9, "steps": row + 1}
            how = {} if error else scored
            recorder.answer(number, example, row, answer, LENGTHS, error, **how)
    return recorder.predictions()


@pytest.fixture(scope="module")
def found(benchmark):
    return made_up(benchmark)


def costs():
    """Returns the FLOPs of one look, of another behind it, and of the second alone."""
    lengths = {**dataclasses.asdict(LENGTHS), "logit_positions": 1}
    # Nobody padded these prompts.
    assert lengths.pop("image_slots") is None
    first, second = (
        account(small.CONFIG, budget, **lengths) for budget in (FIRST, SECOND)
    )
    writing = second.decode_per_token(8) + second.decode_per_token(9)
    trunk = small.CONFIG.plan.trunk_length
    behind = sum(layer.total for layer in second.layers[trunk:]) + second.lm_head
    one = first.llm_prefill + first.decode_per_token(8)
    return one, behind + writing, second.llm_prefill + writing


def by_hand(found, mine, threshold):
    """Returns (accuracy, cost, share that looks again), example by example."""
    one, again, at_once = costs()
    right, cost, twice = [], [], []
    for i in np.flatnonzero(mine):
        unsure = found.looks["confidence"][0, i] < threshold
        right.append(found.main_scores[int(unsure), i])
        cost.append((one + unsure * again) / at_once)
        twice.append(unsure)
    return np.mean(right), np.mean(cost), np.mean(twice)


def test_curves_are_those_of_every_threshold_of_a_task(found):
    one, _, at_once = costs()
    curves = curves_by_task(found, FIRST, SECOND)
    assert list(curves) == list(found.tasks)
    for task, curve in curves.items():
        mine = np.array(found.example_tasks) == task
        for point, threshold in enumerate(curve["threshold"]):
            wanted = by_hand(found, mine, threshold)
            names = ("accuracy", "cost", "again")
            values = [curve[name][point] for name in names]
            np.testing.assert_allclose(values, wanted, **REORDERED)
            # Drawn at random, as many are asked at once as the cost allows.
            share = min(1, (curve["cost"][point] - one / at_once) / (1 - one / at_once))
            first, second = found.main_scores[:, mine].mean(axis=1)
            mixed = (1 - share) * first + share * second
            assert curve["mixing"][point] == pytest.approx(mixed)
        # From nobody to all.
        assert (curve["again"][0], curve["again"][-1]) == (0, 1)
        assert curve["cost"][-1] > 1


def test_numbers_at_a_threshold_are_means_over_tasks(found):
    rows = at_threshold(found, FIRST, SECOND, THRESHOLD)
    for task in found.tasks:
        mine = np.array(found.example_tasks) == task
        values = [rows[task][name] for name in ("cascade", "cost", "again")]
        wanted = by_hand(found, mine, THRESHOLD)
        np.testing.assert_allclose(values, wanted, **REORDERED)
    for group, names in found.groups.items():
        for key, value in rows[group].items():
            assert value == pytest.approx(np.mean([rows[n][key] for n in names]))


def test_a_cascade_that_knows_something_is_above_mixing(benchmark):
    """...and one whose confidence is noise is not: it pays for two looks."""
    many = [made_up(benchmark, seed) for seed in range(5)]
    gains = {"told": [], "noise": []}
    rng = np.random.default_rng(5)
    for found in many:
        looks = two_looks(found, FIRST, SECOND)
        noise = dataclasses.replace(looks, confidence=rng.permutation(looks.confidence))
        for name, each in (("told", looks), ("noise", noise)):
            again = each.confidence < THRESHOLD
            accuracy = np.where(again, each.scores[1], each.scores[0]).mean()
            cost = (each.first_cost + again * each.again_cost).mean()
            gains[name].append(accuracy - mixing_at(np.array([cost]), each)[0])
    assert np.mean(gains["told"]) > 0.03
    assert np.mean(gains["noise"]) < 0.01


def test_what_has_no_answer_is_left_out(benchmark, found):
    broken = made_up(benchmark, broken=range(0, 50, 7))
    looks = two_looks(broken, FIRST, SECOND)
    assert len(looks.confidence) == 50 - 8
    kept = [i for i in range(50) if i % 7]
    expected = broken.looks["confidence"][0, kept]
    np.testing.assert_array_equal(looks.confidence, expected)
    with pytest.raises(ValueError, match=r"predict\(\.\.\., scored=True\)"):
        two_looks(dataclasses.replace(found, looks=None), FIRST, SECOND)
    with pytest.raises(ValueError, match="No example was answered"):
        two_looks(broken.of_examples(np.array([0, 7])), FIRST, SECOND)


def test_scored_answers_survive_the_disk(found, tmp_path):
    file = tmp_path / "pages.jsonl"
    found.write(file)
    again = Predictions.read(file)
    for name, values in found.looks.items():
        np.testing.assert_array_equal(again.looks[name], values)
    assert curves_by_task(again, FIRST, SECOND) == curves_by_task(found, FIRST, SECOND)


def run_of(found, seed=0):
    answers = CascadeAnswers(
        cascade=Cascade(FIRST, SECOND, THRESHOLD), predictions=found
    )
    return EvaluatedRun(
        label="universal",
        facts=RunFacts(preset="mini", seed=seed, train_steps=1, wall_clock_s=1.0),
        network=f"universal {seed}",
        predictions=found,
        ms_per_sample={FIRST: 1.0, SECOND: 3.0},
        cascade=answers,
    )


def test_the_row_of_a_cascade_counts_both_looks(found):
    plain = make_rows([dataclasses.replace(run_of(found), cascade=None)])
    *fixed, row = make_rows([run_of(found)])
    assert fixed == plain
    assert (row["model"], row["budget"]) == ("policy:cascade", "cascade")
    assert row["cascades"] == [f"cascade:sa0,sa1:1@{THRESHOLD}"]
    again = found.looks["confidence"][0] < THRESHOLD
    assert row["looked_again"] == pytest.approx(again.mean())
    at = at_threshold(found, FIRST, SECOND, THRESHOLD)
    one, other = (each["flops"]["llm_prefill"] for each in fixed)
    _, behind, at_once = costs()
    # The second answer is written in any case; the first one for nothing.
    writing = at_once - other
    thrown_away = costs()[0] - one
    both = one + thrown_away + behind - writing
    for group in found.groups:
        assert row["accuracy"][group] == pytest.approx(at[group]["cascade"])
        share = at[group]["again"]
        wanted = (1 - share) * one + share * both
        assert row["by_group"][group]["llm_prefill"] == pytest.approx(wanted)
        ms = row["by_group"][group]["ms_per_sample"]
        assert ms == pytest.approx(1.0 + 3.0 * share)
    dense = fixed[0]["flops"]["llm_prefill"] * fixed[0]["llm_saving"]
    mean = row["flops"]["llm_prefill"]
    assert row["llm_saving"] == pytest.approx(dense / mean)
    assert row["flops"]["tower"] == fixed[0]["flops"]["tower"]


def test_rows_of_several_seeds_are_means(benchmark):
    runs = [run_of(made_up(benchmark, seed), seed) for seed in (0, 1)]
    row, alone = make_rows(runs)[-1], [make_rows([run])[-1] for run in runs]
    for group, value in row["accuracy"].items():
        assert value == pytest.approx(np.mean([a["accuracy"][group] for a in alone]))
    assert row["seeds"] == [0, 1]
    assert cascade_rows([]) == []
    with pytest.raises(ValueError, match="leaves out: add it to --budgets"):
        check_evaluated(runs[0].cascade.cascade, [FIRST])
