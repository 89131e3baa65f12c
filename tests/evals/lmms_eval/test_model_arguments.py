"""The model of lmms-eval: how it is found, what it refuses, damaged documents."""

import importlib.metadata

import pytest

from tests.data.prompts import prompt_cases
from tests.evals.lmms_eval import local_tasks
from tests.evals.lmms_eval.local_tasks import BUDGETS

pytest.importorskip("lmms_eval", reason=local_tasks.REASON)

from visor_jax.evals.lmms_eval import model as plug_in
from visor_jax.evals.lmms_eval.manifest import manifest
from visor_jax.runtime.user_error import UserError


def test_lmms_eval_finds_the_model():
    found = importlib.metadata.entry_points(group="lmms_eval.models")
    (point,) = (each for each in found if each.name == "visor_jax")
    assert point.load() is manifest
    from lmms_eval.models import get_model

    assert get_model("visor_jax") is plug_in.VisorChat
    assert get_model("visor_jax", force_simple=True) is plug_in.VisorSimple


def test_damaged_documents_are_empty_answers_and_the_others_are_answered(
    network, capsys
):
    from lmms_eval.api.instance import Instance

    model = made(network)
    picture = prompt_cases.random_image(20, 30)

    def messages_of(doc):
        if doc is None:
            raise OSError("cannot identify image file")
        parts = [{"type": doc[0], "url": picture}, {"type": "text", "text": doc[1]}]
        return [{"role": "user", "content": parts}]

    docs = [("image", "What is it?"), None, ("audio", "Why?"), ("image", "Why?")]
    model.task_dict = {"local": {"test": docs}}
    given = {"max_new_tokens": 4, "until": "\n\n"}

    def requests(numbers):
        return [
            Instance(
                "generate_until",
                ("", messages_of, given, n, "local", "test"),
                idx=0,
                metadata={"task": "local", "doc_id": n, "repeats": 1},
            )
            for n in numbers
        ]

    found = model.generate_until(requests([3, 1, 2, 0]))
    assert given == {"max_new_tokens": 4, "until": "\n\n"}
    assert [each.token_counts is None for each in found] == [False, True, True, False]
    assert [each.text for each in found[1:3]] == ["", ""]
    assert all(each.token_counts.input_tokens > 10 for each in found[::3])
    with pytest.raises(UserError, match="cannot identify"):
        model.generate_until(requests([1, 1]))
    assert model.generate_until([]) == []
    given["num_beams"] = 5
    with pytest.raises(UserError, match="local: num_beams=5"):
        model.generate_until(requests([0]))
    for refused in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="generate_until"):
            refused([])


def made(network, **arguments):
    given = {"chat_template": "hub", "rows": 2, "slots": 8, "batch_size": "1"}
    return plug_in.VisorChat(pretrained=str(network), **given, **arguments)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"budget": "sa9"}, "sa9"),
        ({"reduce": "fastvv"}, "fastvv"),
        ({"device_map": "auto"}, r"knows no \['device_map'\]"),
        ({"rows": 3}, "rows=3 is no power of two"),
        ({"look": "bse"}, "Unknown crops 'bse'"),
        # Of two tiles a network must be right at any: this one was not trained so.
        ({"look": 2}, "trained"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, why, network):
    given = {"rows": 2, "slots": 8} | arguments
    with pytest.raises(UserError, match=why):
        plug_in.VisorChat(pretrained=str(network), **given)


def test_one_process_and_one_checkpoint(network, monkeypatch):
    with pytest.raises(UserError, match="pretrained=PATH"):
        plug_in.VisorChat()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE=2"):
        made(network)


def test_names_with_commas_stand_in_quotes(network):
    assert made(network, budget=f'"{BUDGETS[1]}"').budget == BUDGETS[1]


def test_a_look_is_shown_to_all_requests(network):
    engine = made(network, look="base")._engine(4)
    assert engine.processor.looking.crops.name == "base"
    assert made(network)._engine(4).processor.looking is None
