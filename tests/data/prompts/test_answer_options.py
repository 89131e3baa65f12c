import json

import numpy as np
import pytest

from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.sampling import Sampling


def test_what_is_said_goes_through_json():
    said = AnswerOptions(
        budget="sa1:3",
        max_new_tokens=7,
        sampling=Sampling(temperature=0.5, top_k=3, also_used=(4, 5)),
        seed=0,
        stop=["a", "b"],
        cost=0.0,
    )
    read = AnswerOptions.of_dict(json.loads(json.dumps(said.to_dict())))
    assert read == said
    assert hash(read) == hash(said)
    assert said.stop == ("a", "b")
    assert AnswerOptions(stop="ab").stop == ("ab",)


def test_nothing_said_is_nothing():
    assert AnswerOptions().to_dict() == {}
    nothing = {"budget": None, "sampling": None, "stop": None, "seed": None}
    assert AnswerOptions.of_dict(nothing) == AnswerOptions()
    assert AnswerOptions.of_dict({"budget": 2}).budget == "2"


def test_numbers_of_numpy_are_numbers():
    given = AnswerOptions(max_new_tokens=np.int64(2), seed=np.int32(7))
    assert given.to_dict() == {"max_new_tokens": 2, "seed": 7}
    assert json.dumps(given.to_dict())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"temperature": 1}, r"unknown \['temperature'\].*known are \['budget', 'max"),
        (
            {"sampling": {"heat": 1}},
            r"unknown \['heat'\] in sampling: known are",
        ),
        ({"sampling": 1}, "sampling 1 is no JSON object"),
        ({"sampling": {"temperature": "1"}}, "temperature='1' is no finite number"),
        ({"sampling": {"temperature": True}}, "temperature=True is no finite number"),
        ({"sampling": {"temperature": None}}, "temperature=None is no finite number"),
        ({"sampling": {"temperature": 1, "top_k": 2.0}}, r"top_k=2\.0 is no whole"),
        ({"sampling": {"also_used": [1.5]}}, r"also_used=1\.5 is no whole number"),
        ({"sampling": {"also_used": None}}, "also_used=None is no tuple"),
        ({"sampling": {"temperature": -1}}, "temperature=-1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"max_new_tokens": 2.5}, r"max_new_tokens=2\.5"),
        ({"max_new_tokens": True}, "max_new_tokens=True"),
        ({"cost": "1"}, "cost='1' is no finite number"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**31}, "seed=2147483648"),
        ({"budget": True}, "budget=True"),
        ({"budget": ["all"]}, r"budget=\['all'\]"),
        ({"stop": ["a", ""]}, "none of them empty"),
        ({"stop": 3}, "stop=3"),
        ({"stop": [3], "seed": "x"}, "seed='x'.*; stop="),
    ],
)
def test_what_is_no_option_is_named(fields, reason):
    with pytest.raises(ValueError, match=reason):
        AnswerOptions.of_dict(fields)
