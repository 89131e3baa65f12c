"""`budget="cascade:..."` without an engine: answers, streams, what runs how often.

What is right is told by NumPy: both budgets' answers, and confidences from one full
forward pass over each prompt and its first answer.
"""

import dataclasses

import jax
import numpy as np
import pytest

import visor_jax
from tests.inference import page_run
from tests.inference.prompts import extended
from visor_jax.budget import Budget
from visor_jax.data.buckets import padded_rows
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.inference import prefilled_parts
from visor_jax.inference.batch_answers import samples_of
from visor_jax.inference.generation import generate
from visor_jax.inference.routing import choose_budgets
from visor_jax.inference.routing.cascade import Cascade
from visor_jax.runtime import atomic_write

QUESTIONS = ("ring", "digit row 2 column 3", "marked digit", "bar B")
FIRST, SECOND = Budget.none(), Budget.all(page_run.CONFIG.plan)
NEW = 4


def requests():
    return [
        visor_jax.Request(question, page_run.page(seed))
        for seed in range(2)
        for question in QUESTIONS
    ]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    # So large that budgets say different things.
    params = jax.tree.map(lambda x: 2 * x, page_run.parameters())
    return page_run.save(tmp_path_factory.mktemp("run"), params)


@pytest.fixture(scope="module")
def model(workdir):
    return visor_jax.load(workdir)


@pytest.fixture(scope="module")
def by_hand(model):
    """Returns the confidence of every request's first answer, by full passes."""
    processor, found = model.processor, np.zeros(len(requests()))
    samples = samples_of(processor, requests(), room=NEW)
    settings = {"eos_id": processor.eos_ids, "pad_id": processor.pad_id}
    for group in processor.buckets.batches(samples, 4, whole=False):
        batch = group.batch
        tokens = generate.generate(
            model.vlm, model.params, batch, FIRST, max_new_tokens=NEW, **settings
        )
        tokens = np.asarray(tokens)
        logits = model.logits_of(extended(batch, tokens), FIRST).astype(np.float64)
        last = np.where(batch.text_mask, batch.text_positions, -1).argmax(axis=1)
        ends = [[t in processor.eos_ids for t in row] for row in tokens.tolist()]
        for row, place in enumerate(group.rows):
            count = ends[row].index(True) + 1 if any(ends[row]) else NEW
            behind = batch.tokens.shape[1] + np.arange(count - 1)
            powers = np.exp(logits[row, [last[row], *behind]])
            written = powers[np.arange(count), tokens[row, :count]]
            chances = written / powers.sum(axis=1)
            found[place] = chances.prod() ** (1 / count)
    return found


@pytest.fixture(scope="module")
def cascade(by_hand):
    """Returns one that is sure of half of the first answers."""
    ascending = np.sort(by_hand)
    middle = len(ascending) // 2
    assert ascending[middle] > ascending[middle - 1] * 1.001
    return Cascade(FIRST, SECOND, float(ascending[middle - 1 : middle + 1].mean()))


@pytest.fixture(scope="module")
def expected(model, cascade, by_hand):
    """Returns the answers, and which of them are second ones."""
    first, second = (
        model.generate_all(requests(), budget, batch_size=4, max_new_tokens=NEW)
        for budget in (FIRST, SECOND)
    )
    again = by_hand < cascade.threshold
    assert sum(again) == len(again) // 2
    differ = np.array(first) != np.array(second)
    assert (differ & again).sum() > 1
    assert (differ & ~again).any()
    pairs = zip(again, first, second, strict=True)
    return [two if unsure else one for unsure, one, two in pairs], again


def test_unsure_answers_are_those_of_the_second_budget(model, cascade, expected):
    answers, again = expected
    how = {"batch_size": 4, "max_new_tokens": NEW}
    assert model.generate_all(requests(), cascade.name, **how) == answers
    for row in (int(np.argmax(again)), int(np.argmin(again))):
        asked = requests()[row]
        what = asked.images, asked.prompt, cascade.name
        pieces = model.stream(*what, max_new_tokens=NEW)
        assert "".join(pieces) == answers[row]


def test_a_look_says_what_it_came_to(model, cascade, expected, by_hand):
    answers, again = expected
    for row in (int(np.argmax(again)), int(np.argmin(again))):
        prompt = model.read(requests()[row], cascade.name, max_new_tokens=NEW)
        assert (prompt.cascade, prompt.budget, prompt.first) == (cascade, FIRST, None)
        looked = model.look(prompt)
        assert looked.first.budget == FIRST
        assert looked.first.confidence == pytest.approx(by_hand[row], rel=1e-4)
        assert looked.budget == (SECOND if again[row] else FIRST)
        assert (looked.tokens is None) == again[row]
        assert model.look(looked) is looked
        assert "".join(model.pieces(looked)) == answers[row]
    plain = model.read(requests()[0], FIRST)
    assert model.look(plain) is plain


def test_tower_and_trunk_run_once(model, cascade, expected, monkeypatch):
    read, rest = choose_budgets.read_trunk_alone, prefilled_parts.prefill_behind
    trunks, rests = [], []

    def counted(params, batch, **how):
        trunks.append(batch.size)
        return read(params, batch, **how)

    def behind(model, params, trunk, rows, budget, **how):
        rests.append((budget, len(rows)))
        return rest(model, params, trunk, rows, budget, **how)

    def never(*args, **how):
        raise AssertionError("A prompt is read again.")

    monkeypatch.setattr(choose_budgets, "read_trunk_alone", counted)
    monkeypatch.setattr(prefilled_parts, "prefill_behind", behind)
    monkeypatch.setattr(generate, "prefill", never)
    answers, again = expected
    how = {"batch_size": 4, "max_new_tokens": NEW}
    assert model.generate_all(requests(), cascade.name, **how) == answers
    unsure = [padded_rows(n, 4) for n in again.reshape(2, 4).sum(axis=1).tolist()]
    expected_rests = [(SECOND, n) for n in unsure]
    assert trunks == [4, 4]
    assert rests == [(FIRST, 4), expected_rests[0], (FIRST, 4), expected_rests[1]]
    row = int(np.argmax(again))
    read_prompt = model.read(requests()[row], cascade.name, max_new_tokens=NEW)
    assert "".join(model.pieces(read_prompt)) == answers[row]
    assert (trunks[2:], rests[4:]) == ([1], [(FIRST, 1), (SECOND, 1)])


def test_a_second_look_draws_as_if_it_were_the_only_one(model):
    """...whatever the first one drew; beside requests that name a budget."""
    always = Cascade(FIRST, SECOND, 1.0).name
    draws, asked = Sampling(temperature=3.0), []
    for name, seed in ((always, 3), ("all", 3), ("all", 4)):
        said = AnswerOptions(budget=name, seed=seed, sampling=draws)
        asked.append(dataclasses.replace(requests()[0], options=said))
    one, same, other = model.generate_all(asked, FIRST, max_new_tokens=NEW)
    assert one == same != other


def test_mistakes_are_one_line(model, tmp_path):
    page, asked = page_run.page(), [visor_jax.Request("ring", page_run.page())]
    for budget, reason in (
        ("cascade", r"cascade\.json is not there: .*visor_jax\.cascade --checkpoint"),
        ("cascade:sa0,all@0", "must lie above 0 and up to 1"),
        ("cascade:sa0,sa1:2@0.5", "not trained for budget 'sa1:2'"),
    ):
        for ask in (model.generate, model.stream):
            with pytest.raises(ValueError, match=reason):
                ask(page, "ring", budget)
        with pytest.raises(ValueError, match=reason):
            model.engine(budget)
    for ask in (
        lambda: model.generate(page, "ring", "cascade:sa0,all@0.5", cost=2.0),
        lambda: model.engine("cascade:sa0,all@0.5", cost=2.0),
    ):
        with pytest.raises(ValueError, match=r"cost=2\.0 is for budget='auto'"):
            ask()
    with pytest.raises(ValueError, match="chooses a budget when it has answered"):
        model.choose(asked, "cascade:sa0,all@0.5")
    saved = page_run.save(tmp_path, page_run.parameters(), budgets=["all"])
    alone = visor_jax.load(saved)
    for budget in ("cascade", "cascade:sa0,all@0.5"):
        with pytest.raises(ValueError, match=r"was trained for sa2:1,2 alone"):
            alone.generate(page, "ring", budget)


def test_the_plain_name_is_the_calibrated_one(model, cascade, expected, workdir):
    file = model.network.cascade_file
    assert file.path.parent == workdir
    atomic_write.write_json(file.path, file.content(cascade, {}))
    try:
        assert model.cascade() == cascade
        how = {"batch_size": 4, "max_new_tokens": NEW}
        found = model.generate_all(requests(), "cascade", **how)
        assert found == expected[0]
    finally:
        file.path.unlink()
