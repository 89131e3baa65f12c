import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evals.small import BUDGETS, CONFIG
from tests.tiny import params_of
from visor_jax.budget import BudgetSet
from visor_jax.data.pages.batches import single_question_batch
from visor_jax.evals import timing
from visor_jax.evals.harness import evaluate_budgets, predict
from visor_jax.models.variants import dense
from visor_jax.models.vlm import VLM

MODEL = VLM(CONFIG)


@pytest.fixture(scope="module")
def params():
    return params_of(CONFIG)["params"]


@pytest.fixture(scope="module")
def results(params, evaluation_set):
    return evaluate_budgets(MODEL, params, BUDGETS, evaluation_set)


def test_every_page_answers_every_task_and_guesses(results, evaluation_set):
    assert [r.budget.name for r in results] == ["sa0", "sa1:1"]
    for result in results:
        assert result.correct.shape == (5, 10)
        assert not np.isnan(result.correct).any()
        assert list(result.accuracy) == list(evaluation_set.task_names)
        # Chance is 36 % on easy tasks, and the end must be right as well.
        assert np.mean(list(result.accuracy.values())) < 0.4
    assert (results[0].answers.predicted != results[1].answers.predicted).any()


def test_targets_are_the_answers(results, evaluation_set):
    words = evaluation_set.tokenizer.convert_ids_to_tokens(
        results[0].answers.targets.tolist()
    )
    asked = evaluation_set.questions(5)
    assert words == [question.answer for page in asked for question in page]


def test_packed_answers_equal_one_question_at_a_time(results, params, evaluation_set):
    """The naive way: greedy decoding of two tokens, each question on its own."""
    end = evaluation_set.tokenizer.eos_token_id
    for result in results[1:]:
        gates = result.budget.gates(CONFIG.plan)
        predicted, correct = [], []
        for page, questions in enumerate(evaluation_set.questions(5)):
            pages = np.repeat(evaluation_set.pool.pages[page : page + 1], 10, axis=0)
            batch = single_question_batch(
                pages,
                [question.text for question in questions],
                evaluation_set.tokenizer,
                text_length=8,
            )
            rows, length = np.arange(10), batch.text_mask.sum(axis=1)
            first = np.asarray(predict(MODEL, params, batch, gates))[rows, length - 1]
            batch.tokens[rows, length] = first
            batch.text_mask[rows, length] = True
            batch.text_segments[rows, length] = 1
            batch.text_positions[rows, length] = (
                batch.text_positions[rows, length - 1] + 1
            )
            second = np.asarray(predict(MODEL, params, batch, gates))[rows, length]
            right = [question.answer for question in questions]
            right = evaluation_set.tokenizer.convert_tokens_to_ids(right)
            predicted += first.tolist()
            correct += ((first == right) & (second == end)).tolist()
        assert predicted == result.answers.predicted.tolist()
        assert correct == result.answers.correct.tolist()


def test_static_gates_predict_what_traced_gates_do(params, evaluation_set):
    batch = jax.device_put(next(evaluation_set.batches()).batch)

    @jax.jit
    def traced(gates):
        logits = MODEL.apply({"params": params}, batch, gates).logits
        return jnp.argmax(logits, axis=-1)

    for budget in BUDGETS:
        gates = budget.gates(CONFIG.plan)
        static = np.asarray(predict(MODEL, params, batch, gates))
        other = np.asarray(traced(jnp.asarray(gates)))
        np.testing.assert_array_equal(static[batch.text_mask], other[batch.text_mask])


def test_progress_counts_batches_and_budgets(params, evaluation_set):
    seen = []
    evaluate_budgets(
        MODEL, params, BUDGETS, evaluation_set, progress=lambda *done: seen.append(done)
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_budgets_of_another_plan_are_refused(params, evaluation_set):
    other = BudgetSet.parse(["all"], dense(CONFIG).plan)
    with pytest.raises(ValueError, match="are of a plan"):
        evaluate_budgets(MODEL, params, other, evaluation_set)


def test_timed_program_predicts_the_same_word(params, results, evaluation_set):
    programs = timing.budget_programs(
        MODEL, params, BUDGETS, evaluation_set, batch_size=5
    )
    for result in results:
        logits = np.asarray(programs[result.budget.name]())
        # Page i is asked its task i.
        places = np.arange(5) * 10 + np.arange(5)
        expected = result.answers.predicted[places]
        np.testing.assert_array_equal(logits.argmax(axis=-1), expected)
    times = timing.time_budgets(
        MODEL, params, BUDGETS, evaluation_set, batch_size=5, runs=2
    )
    assert list(times) == ["sa0", "sa1:1"]
    assert min(times.values()) > 0


def test_programs_take_turns():
    calls = []

    def program(name):
        return lambda: calls.append(name) or jnp.zeros(())

    timing.time_programs({n: program(n) for n in "ab"}, runs=2, warm_up=1)
    assert "".join(calls) == "ababab"
    with pytest.raises(ValueError, match="runs=0"):
        timing.time_programs({}, runs=0)
