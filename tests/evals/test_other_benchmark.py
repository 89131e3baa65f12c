"""A benchmark that is no pages and not packed, from its questions to its report."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.evals import small
from visor_jax.data.prompts.request import Request
from visor_jax.evals import timing
from visor_jax.evals.benchmark import Example, clusters_of
from visor_jax.evals.harness import predict
from visor_jax.evals.metrics.exact_match import exact_match
from visor_jax.evals.predictions import Predictions
from visor_jax.evals.report.report import ReportFacts, build_report, report_run
from visor_jax.evals.report.rows import EvaluatedRun, RunFacts
from visor_jax.inference.visor_model import VisorModel

TINTS = {"red": (200, 30, 30), "blue": (30, 30, 200), "pink": (240, 150, 170)}
MADE = ReportFacts(git_commit="abc", machine="here", command="evaluate")


class Tints:
    """Pictures of one colour, three questions about each, none of them in a group."""

    name, split, cluster_name = "tints", "trial", "picture"
    groups, new_tokens = {}, 2

    def __len__(self):
        return 3 * len(TINTS)

    def identity(self):
        return {"tints": list(TINTS)}

    def examples(self):
        for name, colour in TINTS.items():
            picture = Image.new("RGB", (40, 30), colour)
            for number, text in enumerate(("page colour", "page colour", "ring")):
                yield Example(
                    id=f"{name}-{number}",
                    task="ring" if text == "ring" else "colour",
                    cluster=name,
                    request=Request(text, [picture]),
                    references=("no",) if text == "ring" else (name,),
                )

    def score(self, example, answer):
        return {"exact_match": exact_match(answer, example.references)}

    def packed(self):
        return None


class Broken(Tints):
    """One of the pictures is damaged."""

    def examples(self):
        for example in super().examples():
            if example.id == "blue-1":
                object.__setattr__(example.request, "images", [b"no picture"])
            yield example


@pytest.fixture(scope="module")
def network():
    return small.network(small.answering_params())


@pytest.fixture(scope="module")
def predictions(network):
    return predict(network, Tints())


def test_answers_are_those_of_the_library(network, predictions):
    model = VisorModel(network)
    for budget, answers in zip(predictions.budgets, predictions.answers, strict=True):
        asked = [example.request for example in Tints().examples()]
        expected = model.generate_all(asked, budget, batch_size=16, max_new_tokens=2)
        assert list(answers) == expected
        # There is something to tell apart.
        assert len(set(answers)) > 1
    assert predictions.tasks == ("colour", "ring")
    assert predictions.groups == {"all": ("colour", "ring")}
    assert predictions.num_clusters == 3
    assert not predictions.asks_every_task_once


def test_a_question_that_cannot_be_read_is_wrong_and_the_others_are_answered(
    network, predictions
):
    found = predict(network, Broken())
    at = found.ids.index("blue-1")
    for errors, answers, expected in zip(
        found.errors, found.answers, predictions.answers, strict=True
    ):
        assert "it is damaged or no image" in errors[at]
        assert [e for i, e in enumerate(errors) if i != at] == [None] * 8
        assert answers == (*expected[:at], "", *expected[at + 1 :])
    assert not found.main_scores[:, at].any()


def test_its_report_speaks_of_what_it_asks(network, predictions, tmp_path):
    said = []
    text = report_run(
        network,
        label="universal",
        facts=RunFacts(preset="mini", seed=0, train_steps=1, wall_clock_s=1.0),
        made=MADE,
        benchmark=Tints(),
        out=tmp_path,
        progress=lambda *done: said.append(done),
    )
    assert said == [(i, 18) for i in range(1, 19)]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["data"] == {"split": "trial", "pictures": 3}
    assert [row["budget"] for row in report["rows"]] == ["sa0", "sa1:1"]
    for row, budget in zip(report["rows"], predictions.budgets, strict=True):
        assert row["n"] == {"colour": 6, "ring": 3}
        scores = predictions.scores_at(budget)
        assert row["accuracy"] == {"all": scores["all"].value}
        assert row["tasks"]["colour"] == scores["colour"].value
        assert (
            row["flops"]["llm_prefill"] == predictions.mean_flops(budget)["llm_prefill"]
        )
    written = (tmp_path / "report.md").read_text()
    for shown in (text, written):
        assert "page" not in shown
        assert "3 held-out pictures" in shown
    for picture in ("accuracy_vs_flops", "tasks_by_budget", "examples"):
        assert min(Image.open(tmp_path / f"{picture}.png").size) > 250


def test_a_report_needs_predictions_alone(predictions, tmp_path):
    predictions.write(tmp_path / "tints.jsonl")
    read = Predictions.read(tmp_path / "tints.jsonl")
    live, stored = (
        build_report(
            [
                EvaluatedRun(
                    label="universal",
                    facts=RunFacts(
                        preset="mini", seed=0, train_steps=1, wall_clock_s=1.0
                    ),
                    network="n",
                    predictions=each,
                    ms_per_sample=dict.fromkeys(each.budgets, 1.0),
                )
            ],
            MADE,
        )
        for each in (predictions, read)
    )
    assert stored["rows"] == live["rows"]
    assert stored["data"] == live["data"] == {"split": "trial", "pictures": 3}
    assert stored["lengths"] == live["lengths"]
    assert len({row["flops"]["llm_prefill"] for row in stored["rows"]}) == 2


def test_timed_prompts_take_turns_over_pictures_and_questions(network):
    first = clusters_of(Tints(), 2)
    assert [[e.id for e in about] for about in first] == [
        [f"{name}-{i}" for i in range(3)] for name in ("red", "blue")
    ]
    batch = timing.prompts(network, Tints(), 4)
    # Red and colour, blue and colour, pink and ring, red and colour again.
    assert batch.text_mask.sum(axis=1).tolist() == [3, 3, 2, 3]
    assert batch.tokens.shape == (4, 3)
    means = batch.pixels.mean(axis=(1, 2, 3))
    np.testing.assert_array_equal(means[0], means[3])
    colours = np.array([*TINTS.values()]) / 127.5 - 1
    np.testing.assert_allclose(means[:3], colours, atol=1e-3)
