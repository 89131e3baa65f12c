"""A network that drops image tokens: however it is asked, answers and FLOPs are its."""

import dataclasses

import numpy as np
import pytest

from tests.evals import small
from tests.evals.small import BUDGETS, CONFIG
from tests.models.decoder.every_second import EverySecond
from visor_jax.data.prompts.request import Request
from visor_jax.evals import timing
from visor_jax.evals.harness import predict
from visor_jax.evals.predictions import Predictions
from visor_jax.flops.account import account
from visor_jax.inference.files.answer_flops import flops_of
from visor_jax.inference.visor_model import VisorModel
from visor_jax.models.decoder.token_reducer import PositionRule

# Of 144 image tokens 72 come to the last of three layers.
REDUCER = EverySecond(PositionRule.RENUMBER, 2)
LENGTHS = (144, 144, 72)


@pytest.fixture(scope="module")
def whole():
    return small.network(small.answering_params(2))


@pytest.fixture(scope="module")
def reduced(whole):
    return dataclasses.replace(whole, reducer=REDUCER)


def test_predictions_are_those_of_the_shorter_image(
    whole, reduced, benchmark, tmp_path
):
    found, other = predict(reduced, benchmark), predict(whole, benchmark)
    assert found.answers != other.answers
    for budget in BUDGETS:
        costs, before = found.mean_flops(budget), other.mean_flops(budget)
        lengths = {**found.mean_lengths(), "logit_positions": 1}
        counted = account(CONFIG, budget, **lengths, image_lengths=LENGTHS)
        assert costs["llm_prefill"] == counted.llm_prefill < before["llm_prefill"]
        assert costs["decode_per_token"] < before["decode_per_token"]
        # The dense network sees every token.
        assert costs["dense_llm_prefill"] == before["dense_llm_prefill"]
    assert "EverySecond" in found.reducer
    assert other.reducer is None
    for written in (found, other):
        written.write(tmp_path / "pages.jsonl")
        assert Predictions.read(tmp_path / "pages.jsonl").reducer == written.reducer
        said = "EverySecond" in (tmp_path / "pages.settings.json").read_text()
        assert said == (written is found)


def test_the_engine_and_the_timed_program_answer_as_packed_rows_do(reduced, benchmark):
    predictions = predict(reduced, benchmark)
    examples, model = list(benchmark.examples()), VisorModel(reduced)
    batch = timing.prompts(reduced, benchmark, 5)
    programs = timing.prefill_programs(reduced, BUDGETS, batch)
    for budget, packed in zip(BUDGETS, predictions.answers, strict=True):
        requests = [Request(e.request.prompt, e.request.images) for e in examples[:20]]
        answers = model.engine(budget).answer_all(requests)
        begun = [text.replace("<pad>", "").strip() for text in packed[:20]]
        assert all(a.text.startswith(p) for a, p in zip(answers, begun, strict=True))
        assert any(begun)
        # Page i is asked task i.
        first = programs[budget]().logits.argmax(axis=-1).tolist()
        words = reduced.processor.tokenizer.convert_ids_to_tokens(first)
        for word, answer in zip(words, packed[:50:11], strict=True):
            assert answer.startswith(word) if answer else word == "<eos>"


def test_costs_of_answers_and_of_prompts_are_smaller(whole, reduced):
    page = np.full((96, 96, 3), 200, np.uint8)
    (answer,) = VisorModel(reduced).engine().answer_all([Request("ring", page)])
    found, before = (flops_of(answer, network.vlm) for network in (reduced, whole))
    assert found["tower"] == before["tower"] > 0
    assert found["llm_prefill"] < before["llm_prefill"]
    cost, dear = (VisorModel(network).cost("all") for network in (reduced, whole))
    assert cost.llm_prefill < dear.llm_prefill
    assert cost.llm_saving > dear.llm_saving
    twelve = VisorModel(reduced).cost("all", image_tokens=12)
    counted = account(
        CONFIG,
        BUDGETS.largest,
        text_tokens=8,
        image_tokens=12,
        crops=1,
        logit_positions=1,
        image_lengths=(12, 12, 6),
    )
    assert twelve.llm_prefill == counted.llm_prefill


def test_what_drops_tokens_answers_otherwise(whole, reduced):
    assert whole.fingerprint != reduced.fingerprint
    same = dataclasses.replace(whole, reducer=EverySecond(PositionRule.RENUMBER, 2))
    assert same.fingerprint == reduced.fingerprint
