"""Asking a network: packed, one at a time, by the engine; and how long it takes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.data.pages.prompt_batch import prompt_batch
from tests.evals import small
from tests.evals.small import BUDGETS, CONFIG
from tests.inference.prompts import extended
from visor_jax.budget import BudgetSet
from visor_jax.data.pages.tokenizer import page_tokenizer
from visor_jax.evals import timing
from visor_jax.evals.harness import next_tokens, predict
from visor_jax.evals.pages.benchmark import PROMPT_LENGTHS, PageBenchmark
from visor_jax.models.variants import dense
from visor_jax.models.vlm import VLM
from visor_jax.policy.scores import score_batch

MODEL = VLM(CONFIG)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneByOne(PageBenchmark):
    """The same questions, asked as a user would ask them."""

    def packed(self):
        return None


@pytest.fixture(scope="module")
def network():
    return small.network(small.answering_params(2))


@pytest.fixture(scope="module")
def predictions(network, benchmark):
    return predict(network, benchmark)


def test_every_page_answers_every_task_at_every_budget(predictions, benchmark):
    assert predictions.budgets == BUDGETS.budgets
    examples = list(benchmark.examples())
    assert list(predictions.ids) == [example.id for example in examples]
    assert [len(row) for row in predictions.answers] == [50, 50]
    assert predictions.answers[0] != predictions.answers[1]
    for row, scores in zip(predictions.answers, predictions.main_scores, strict=True):
        right = [(e.references[0],) == (a,) for e, a in zip(examples, row, strict=True)]
        assert scores.tolist() == right
        # Of few pages, but some are right and more are wrong.
        assert 0 < sum(right) < 25
    said = dataclasses.asdict(PROMPT_LENGTHS)
    # Nobody padded these prompts.
    assert said.pop("image_slots") is None
    assert predictions.mean_lengths() == said


def test_a_network_that_computes_nan_answers_with_errors(benchmark):
    params = small.answering_params(2)
    norm = params["language_model"]["norm"]
    norm["scale"] = norm["scale"].at[0].set(jnp.nan)
    found = predict(small.network(params), benchmark)
    for errors in found.errors:
        assert all("language_model/norm/scale" in error for error in errors)
    assert {answer for row in found.answers for answer in row} == {""}
    assert not found.main_scores.any()


def test_packed_answers_equal_one_question_at_a_time(network, predictions, benchmark):
    """The naive way: greedy decoding of two tokens, each question on its own."""
    tokenizer = page_tokenizer()
    words, examples = tokenizer.convert_ids_to_tokens, list(benchmark.examples())
    batch = prompt_batch(
        np.stack([example.request.images[0] for example in examples]),
        [example.request.prompt for example in examples],
        text_length=8,
    )
    rows, length = np.arange(50), batch.text_mask.sum(axis=1)
    for budget, answers in zip(BUDGETS, predictions.answers, strict=True):
        gates, asked = budget.gates(CONFIG.plan), jax.tree.map(np.copy, batch)
        first = np.asarray(next_tokens(MODEL, network.params, asked, gates))
        first = first[rows, length - 1]
        asked.tokens[rows, length] = first
        asked.text_mask[rows, length] = True
        asked.text_segments[rows, length] = 1
        asked.text_positions[rows, length] = asked.text_positions[rows, length - 1] + 1
        second = np.asarray(next_tokens(MODEL, network.params, asked, gates))
        ends = second[rows, length] == tokenizer.eos_token_id
        for example, answer, word, end in zip(
            examples, answers, words(first.tolist()), ends.tolist(), strict=True
        ):
            right = word == example.references[0]
            if word == tokenizer.eos_token:
                assert answer == ""
            elif not right or end:
                assert answer == word
            else:
                # The word is right and the end is not: more than the word.
                assert answer.startswith(f"{word} ")


def test_scores_are_those_that_policies_learn_from(network, predictions, benchmark):
    """Right or wrong by tokens there, by the metric of the text here."""
    parts = [
        score_batch(MODEL, network.params, asked.batch, BUDGETS).correct
        for asked in benchmark.packed()
    ]
    np.testing.assert_array_equal(
        np.concatenate(parts).T, predictions.main_scores.astype(bool)
    )


def test_the_engine_answers_what_packed_rows_say(network, predictions, benchmark):
    asked = OneByOne(pool=benchmark.pool)
    found = predict(network, asked)
    assert found.ids == predictions.ids
    # Of wrong ones the packed rows know the beginning only; padding that was written
    # counts there, and is no text here.
    for written, packed in zip(found.answers, predictions.answers, strict=True):
        begun = [answer.replace("<pad>", "").strip() for answer in packed]
        assert all(w.startswith(p) for w, p in zip(written, begun, strict=True))
        assert any(begun)
    np.testing.assert_array_equal(found.main_scores, predictions.main_scores)
    assert not any(error for row in found.errors for error in row)
    # Each with the length of its own question.
    words = [len(e.request.prompt.split()) for e in benchmark.examples()]
    assert (found.lengths["text_tokens"] <= np.array(words) + 1).all()
    assert len(set(found.lengths["text_tokens"].tolist())) > 1


def test_static_gates_predict_what_traced_gates_do(network, benchmark):
    batch = jax.device_put(next(benchmark.packed()).batch)

    @jax.jit
    def traced(gates):
        logits = MODEL.apply({"params": network.params}, batch, gates).logits
        return jnp.argmax(logits, axis=-1)

    for budget in BUDGETS:
        gates = budget.gates(CONFIG.plan)
        static = np.asarray(next_tokens(MODEL, network.params, batch, gates))
        other = np.asarray(traced(jnp.asarray(gates)))
        np.testing.assert_array_equal(static[batch.text_mask], other[batch.text_mask])


def test_progress_counts_answers(network, benchmark):
    seen = []
    predict(network, benchmark, progress=lambda *done: seen.append(done))
    # Rows of three pages, then of two, at one budget after the other.
    assert seen == [(30, 100), (60, 100), (80, 100), (100, 100)]


def test_budgets_of_another_plan_are_refused(network, benchmark):
    other = BudgetSet.parse(["all"], dense(CONFIG).plan)
    with pytest.raises(ValueError, match="are of a plan"):
        predict(network, benchmark, other)
    with pytest.raises(ValueError, match="are of a plan"):
        timing.prefill_programs(network, other, timing.prompts(network, benchmark, 1))


def test_the_timed_program_predicts_the_same_word(network, predictions, benchmark):
    batch = timing.prompts(network, benchmark, 12)
    assert batch.tokens.shape == (12, PROMPT_LENGTHS.text_tokens)
    programs = timing.prefill_programs(network, BUDGETS, batch)
    assert list(programs) == list(BUDGETS)
    for program, answers in zip(programs.values(), predictions.answers, strict=True):
        prefilled = program()
        words = page_tokenizer().convert_ids_to_tokens(
            prefilled.logits.argmax(axis=-1).tolist()
        )
        # Row i is asked task i about page i; pages and tasks begin again.
        said = [answers[(i % 5) * 10 + i % 10] for i in range(12)]
        # Some words have a space in them.
        for word, answer in zip(words, said, strict=True):
            assert answer.startswith(word) if answer else word == "<eos>"
        # What decoding goes on from is made as well.
        assert prefilled.cache is not None
    times = timing.milliseconds_per_row(programs, batch_size=12, runs=2)
    assert list(times) == list(BUDGETS)
    assert min(times.values()) > 0


def test_scored_answers_say_how_sure_the_network_is(network):
    """...of what it writes itself: the word and the end, by a full pass and NumPy."""
    one = PageBenchmark.make(1)
    found, packed = predict(network, one, scored=True), predict(network, one)
    assert packed.looks is None
    vocabulary = page_tokenizer().get_vocab()
    assert (found.main_scores == packed.main_scores).all()
    (end,) = network.processor.eos_ids
    words = 0
    for row, budget in enumerate(BUDGETS):
        gates = budget.gates(CONFIG.plan)
        for column, example in enumerate(one.examples()):
            answer = found.answers[row][column]
            if answer not in vocabulary:
                # The end at once, or more words than one.
                continue
            words += 1
            request = example.request
            prompt = prompt_batch(request.images[0][None], [request.prompt])
            written = np.array([[vocabulary[answer], end]], np.int32)
            whole = extended(prompt, written)
            logits = forward(network.params, whole, gates)[0].astype(np.float64)
            last = prompt.tokens.shape[1] - 1
            powers = np.exp(logits[[last, last + 1]])
            chances = powers[[0, 1], written[0]] / powers.sum(axis=1)
            sure = found.looks["confidence"][row, column]
            assert sure == pytest.approx(np.sqrt(chances.prod()), rel=1e-4)
    assert words > 3
    # One token behind the first, whose FLOPs are those of any such token.
    decode = found.flops["decode_per_token"]
    np.testing.assert_array_equal(found.looks["decode"], decode)
    assert (found.looks["behind_trunk"] < found.flops["llm_prefill"]).all()


@functools.partial(jax.jit, static_argnums=2)
def _forward(params, batch, gates):
    return MODEL.apply({"params": params}, batch, gates).logits


def forward(params, batch, gates):
    return np.asarray(_forward(params, batch, gates))
