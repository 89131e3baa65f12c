"""A network that computes NaN: its answers are errors that say why, others go on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import visor_jax
from tests.inference import page_run
from tests.inference.engine import tiny_engine
from tests.inference.engine.tiny_engine import BUDGETS, MODEL, PARAMS, PROCESSOR
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.sampling import GREEDY, Sampling
from visor_jax.data.prompts.stop_tokens import NOT_FINITE, cut_at_end
from visor_jax.inference.batch_answers import answer_samples
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.generation.finite import (
    check_written,
    first_row,
    why_not_finite,
)
from visor_jax.inference.generation.generate import generate, stream
from visor_jax.inference.routing.router import fixed

BAD = 7


def broken_params(value=np.nan):
    """Returns parameters with one number of the embedding of token BAD changed."""

    def change(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return leaf.at[BAD, 0].set(value) if name == NAME else leaf

    return jax.tree.map_with_path(change, jax.tree.map(jnp.asarray, PARAMS))


def _embedding():
    rows = MODEL.config.decoder.vocab_size, MODEL.config.decoder.width
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree.leaves_with_path(PARAMS)
        if leaf.shape == rows
    ]
    return names[0]


NAME = _embedding()
SIZE = MODEL.config.decoder.vocab_size * MODEL.config.decoder.width
REQUESTS = [Request("3 5"), Request(f"3 {BAD} 5"), Request("9 2"), Request(f"{BAD}")]


def test_the_first_bad_parameter_is_named():
    for value in (np.nan, np.inf):
        why = why_not_finite(broken_params(value))
        assert f"1 of {SIZE} numbers of the parameter {NAME} are not" in why
    assert "all parameters are: what lies" in why_not_finite(PARAMS)


def test_in_an_engine_only_what_is_not_finite_is_an_error():
    engine = Engine(
        MODEL,
        broken_params(),
        PROCESSOR,
        fixed(BUDGETS[0]),
        config=tiny_engine.ENGINE_CONFIG,
    )
    found = engine.answer_all(REQUESTS)
    assert [answer.error is None for answer in found] == [True, False, True, False]
    for answer in found[1::2]:
        assert NAME in answer.error
        assert answer.tokens == ()
    for answer in found[::2]:
        assert answer.tokens == tiny_engine.alone(answer.request, BUDGETS[0])
    assert engine.is_idle


def test_in_an_engine_a_stop_string_is_not_looked_for_in_what_is_no_text(tmp_path):
    """...which a real tokenizer cannot decode."""
    params = page_run.parameters()
    params["language_model"]["norm"]["scale"][0] = np.nan
    model = visor_jax.load(page_run.save(tmp_path, params))
    options = AnswerOptions(stop=["no such text"])
    request = Request("ring", page_run.page(), options=options)
    (answer,) = model.engine("none").answer_all([request])
    assert "language_model/norm/scale are not" in answer.error


def _batch(request):
    return PROCESSOR.batch(PROCESSOR.sample(request, room=5))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0)])
def test_rows_end_where_logits_are_not_finite(sampling):
    how = {
        "max_new_tokens": 5,
        "eos_id": PROCESSOR.eos_ids,
        "pad_id": 0,
        "sampling": sampling,
        "key": jax.random.key(0),
    }
    params = broken_params()
    for request, is_fine in zip(REQUESTS, (True, False, True, False), strict=True):
        asked = MODEL, params, _batch(request), BUDGETS[0]
        tokens = np.asarray(generate(*asked, **how))
        assert (NOT_FINITE not in tokens) is is_fine
        if is_fine:
            continue
        assert tokens.tolist() == [[NOT_FINITE, 0, 0, 0, 0]]
        with pytest.raises(ValueError, match=NAME):
            list(first_row(stream(*asked, **how), params))


def test_answers_that_come_together_are_refused_with_the_reason():
    samples = [PROCESSOR.sample(request, room=5) for request in REQUESTS]
    options = [AnswerOptions()] * len(samples)
    how = {"batch_size": 2, "max_new_tokens": 5, "sampling": GREEDY, "key": None}
    budgets = [BUDGETS[0]] * len(samples)
    with pytest.raises(ValueError, match=f"not finite.*{NAME}"):
        answer_samples(
            tiny_engine.choice(params=broken_params()),
            PROCESSOR,
            samples,
            budgets,
            options=options,
            **how,
        )
    fine = answer_samples(
        tiny_engine.choice(params=broken_params()),
        PROCESSOR,
        samples[:1],
        budgets[:1],
        options=options[:1],
        **how,
    )
    assert len(fine) == 1


def test_a_mark_is_no_token():
    check_written(np.array([[3, 0]]), PARAMS)
    with pytest.raises(ValueError, match="not finite"):
        check_written(np.array([[3, NOT_FINITE]]), PARAMS)
    with pytest.raises(ValueError, match="not finite"):
        cut_at_end(np.array([[3, NOT_FINITE, 0]]), 24)
