"""What tasks of lmms-eval say of generation: needs no lmms-eval."""

import pytest

from visor_jax.data.prompts.sampling import GREEDY, Sampling
from visor_jax.evals.lmms_eval.generation_arguments import (
    answer_options,
    unknown_names,
)


@pytest.mark.parametrize(
    ("given", "sampling"),
    [
        ({}, GREEDY),
        ({"temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}, GREEDY),
        ({"temperature": 0.7, "do_sample": False}, GREEDY),
        ({"temperature": None, "top_p": None, "top_k": 0}, GREEDY),
        ({"temperature": 0.7}, Sampling(temperature=0.7)),
        ({"do_sample": True, "top_k": 5}, Sampling(temperature=1.0, top_k=5)),
        (
            {"temperature": 0.7, "top_p": 0.9, "do_sample": True},
            Sampling(temperature=0.7, top_p=0.9),
        ),
        ({"repetition_penalty": 1.2}, Sampling(repetition_penalty=1.2)),
    ],
)
def test_sampling(given, sampling):
    assert answer_options(given, new_tokens=9).sampling == sampling


@pytest.mark.parametrize(
    ("until", "stop"),
    [
        (None, ()),
        ("\n\n", ("\n\n",)),
        (["\n\n", "ASSISTANT:", ""], ("\n\n", "ASSISTANT:")),
        ([], ()),
    ],
)
def test_texts_that_end_an_answer(until, stop):
    assert answer_options({"until": until}, new_tokens=9).stop == stop


def test_lengths():
    assert answer_options({}, new_tokens=9).max_new_tokens == 9
    assert answer_options({"max_new_tokens": 16}, new_tokens=9).max_new_tokens == 16
    with pytest.raises(ValueError, match="max_new_tokens"):
        answer_options({"max_new_tokens": -1}, new_tokens=9)


@pytest.mark.parametrize("name", ["num_beams", "num_return_sequences", "n", "best_of"])
def test_beams_and_several_answers_are_refused(name):
    given = {name: 4, "max_new_tokens": 3}
    with pytest.raises(ValueError, match=f"{name}=4.*--gen_kwargs {name}=1"):
        answer_options(given, new_tokens=9)
    assert given == {name: 4, "max_new_tokens": 3}


def test_what_changes_nothing_is_named():
    given = {"until": None, "image_aspect_ratio": "original", "use_cache": True}
    assert unknown_names(given) == ["image_aspect_ratio", "use_cache"]
