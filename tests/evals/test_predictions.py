"""Predictions: a line an answer, there and back; means of what they cost."""

import json

import numpy as np
import pytest

from tests.evals.small import BUDGETS, CONFIG, made_up_run
from visor_jax.budget import Budget
from visor_jax.data.prompts.request import Request
from visor_jax.evals.benchmark import Example, PromptLengths
from visor_jax.evals.predictions import Predictions
from visor_jax.evals.recorder import Recorder
from visor_jax.flops.account import account

SHORT = PromptLengths(text_tokens=3, image_tokens=144, crops=1)
LONG = PromptLengths(text_tokens=40, image_tokens=144, crops=1)
UNREAD = PromptLengths(text_tokens=0, image_tokens=0, crops=0)


class Colours:
    """Two questions about one picture, one about another."""

    name, split, cluster_name, new_tokens = "colours", "trial", "picture", None

    def __init__(self, groups=None):
        self.groups = groups or {}

    def __len__(self):
        return 3

    def identity(self):
        return {"seed": 0}

    def examples(self):
        for number, (task, cluster) in enumerate(
            (("sky", "a"), ("sea", "a"), ("sky", "b"))
        ):
            yield Example(
                id=f"{number}",
                task=task,
                cluster=cluster,
                request=Request(task),
                references=("blue",),
            )

    def score(self, example, answer):
        graded = {"blue": 1.0, "teal": 0.5, "?": np.nan}
        return {"graded": graded.get(answer, 0.0), "long": float(len(answer) > 3)}

    def packed(self):
        return None


def recorded(*answers, benchmark=None, lengths=(SHORT,) * 3, errors=(None,) * 3):
    """Returns the predictions of these answers at both budgets."""
    benchmark = benchmark or Colours()
    recorder = Recorder(CONFIG, BUDGETS, benchmark)
    examples = list(benchmark.examples())
    numbers = [recorder.ask(example) for example in examples]
    for row, texts in enumerate(answers):
        # In any order.
        for number in reversed(numbers):
            recorder.answer(
                number,
                examples[number],
                row,
                texts[number],
                lengths[number],
                errors[number],
            )
    return recorder.predictions()


def test_scores_are_those_of_the_first_metric_by_task():
    found = recorded(("blue", "red", "teal"), ("red", "blue", "?"))
    assert found.tasks == ("sky", "sea")
    assert found.num_clusters == 2
    # Without groups all tasks are one.
    cheap, dear = (found.scores_at(budget) for budget in BUDGETS)
    assert {name: score.value for name, score in cheap.items()} == {
        **{"all": 0.375, "sky": 0.75, "sea": 0.0}
    }
    # What cannot be scored does not count.
    assert {name: score.value for name, score in dear.items()} == {
        **{"all": 0.5, "sky": 0.0, "sea": 1.0}
    }
    groups = {"water": ("sea", "lake"), "fire": ("sun",)}
    grouped = recorded(("blue",) * 3, ("red",) * 3, benchmark=Colours(groups))
    assert grouped.groups == {"water": ("sea",)}


def test_flops_are_those_of_each_prompt():
    lengths = (SHORT, LONG, LONG)
    found = recorded(("blue",) * 3, ("red",) * 3, lengths=lengths)
    for budget in BUDGETS:
        costs = [
            account(
                CONFIG,
                budget,
                text_tokens=each.text_tokens,
                image_tokens=144,
                crops=1,
                logit_positions=1,
            )
            for each in lengths
        ]
        mean = found.mean_flops(budget)
        prefill = np.mean([cost.llm_prefill for cost in costs])
        assert mean["llm_prefill"] == pytest.approx(prefill)
        dense = np.mean([cost.dense().llm_prefill for cost in costs])
        assert mean["dense_llm_prefill"] == pytest.approx(dense)
        assert mean["tower"] == costs[0].tower.total
        assert type(mean["tower"]) is int
    assert found.mean_lengths()["text_tokens"] == pytest.approx(83 / 3)


def test_what_could_not_be_read_is_wrong_and_costs_nothing():
    found = recorded(
        ("", "blue", "blue"),
        ("", "red", "red"),
        lengths=(UNREAD, SHORT, SHORT),
        errors=("no image", None, None),
    )
    assert found.scores_at(BUDGETS.smallest)["sky"].value == 0.5
    assert found.mean_lengths() == {"text_tokens": 3, "image_tokens": 144, "crops": 1}
    with pytest.raises(ValueError, match=r"No example could be read; .* no image"):
        recorded(*[("",) * 3] * 2, lengths=(UNREAD,) * 3, errors=("no image",) * 3)


def test_an_answer_is_a_line_and_all_come_back(tmp_path):
    written = recorded(
        ("blue", "red", "teal"),
        ("red", "blue", "?"),
        lengths=(SHORT, LONG, SHORT),
        errors=("late", None, None),
        benchmark=Colours({"water": ("sea",)}),
    )
    file = tmp_path / "colours.jsonl"
    written.write(file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 6
    assert [line["budget"] for line in lines] == ["sa0"] * 3 + ["sa1:1"] * 3
    assert lines[1]["id"] == "1"
    assert lines[1]["answer"] == "red"
    assert lines[1]["flops"]["llm_prefill"] > lines[0]["flops"]["llm_prefill"]
    assert [line["error"] for line in lines[:3]] == ["late", None, None]
    assert lines[5]["scores"] == {"graded": None, "long": 0.0}
    read = Predictions.read(file)
    assert list(read.lines()) == lines == list(written.lines())
    assert read.budgets == BUDGETS.budgets
    assert read.benchmark == written.benchmark
    for budget in BUDGETS:
        assert read.scores_at(budget) == written.scores_at(budget)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]))
    with pytest.raises(ValueError, match="lacks answers"):
        Predictions.read(file)


def test_a_writer_that_fails_leaves_no_lines(tmp_path, monkeypatch):
    file, found = tmp_path / "a.jsonl", recorded(("blue",) * 3, ("red",) * 3)
    found.write(file)

    def stopped(_):
        yield {"id": "0"}
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictions, "lines", stopped)
    with pytest.raises(KeyboardInterrupt):
        found.write(file)
    assert [each.name for each in tmp_path.iterdir()] == ["a.settings.json"]


def test_some_of_the_budgets(benchmark):
    both = made_up_run(benchmark, "universal").predictions
    (full,) = BUDGETS.budgets[1:]
    one = both.at([full])
    assert one.budgets == (Budget((1,)),)
    assert one.answers == (both.answers[1],)
    np.testing.assert_array_equal(one.main_scores, both.main_scores[1:])
    assert one.scores_at(full) == both.scores_at(full)
    assert both.asks_every_task_once
    assert not recorded(("blue",) * 3, ("red",) * 3).asks_every_task_once
