"""Programs that answer are compiled as they run: their arrays, and what they leave."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from tests import tiny
from visor_jax.budget import BudgetSet
from visor_jax.flops.account import account
from visor_jax.flops.cache_bytes import cache_bytes
from visor_jax.models.parameters import parameter_shapes
from visor_jax.plan.answer_bytes import AnswerShape
from visor_jax.plan.answers import AnswerPlan
from visor_jax.plan.tpu import command
from visor_jax.plan.tpu.compiled_answers import compile_decode, compile_prefill
from visor_jax.plan.tpu.slices import Slices
from visor_jax.sharding.mesh import MESH_AXES, planned_mesh

CONFIG = tiny.VISOR
SHAPE = AnswerShape(
    prompts=2, slots=3, crops=1, image_tokens=9, text_tokens=12, new_tokens=5
)


@pytest.fixture(autouse=True)
def settings_stay(monkeypatch):
    """...as they are: a child changes jax's for itself."""
    monkeypatch.setattr(jax.config, "update", lambda *_: None)


def compiled(compile_it, budgets):
    plan = AnswerPlan(
        name="tiny",
        config=CONFIG,
        budgets=BudgetSet.parse(budgets, CONFIG.plan),
        mesh=planned_mesh(1, 1, 1),
        shape=SHAPE,
    )
    auto = (jax.sharding.AxisType.Auto,) * 3
    one = np.array(jax.devices()[:1]).reshape(1, 1, 1)
    mesh = jax.sharding.Mesh(one, MESH_AXES, axis_types=auto)
    return compile_it(plan, mesh, effort="full"), plan


@pytest.mark.parametrize("budgets", [["none"], ["none", "all"]], ids=str)
def test_it_is_a_prefill_at_the_largest_budget(budgets):
    found, plan = compiled(compile_prefill, budgets)
    parameters = 4 * count_parameters()
    assert (found.parameters, found.optimizer) == (parameters, 0)
    # Gates are static: what is off is not there, and nothing is asked.
    assert found.conditionals == 0
    keys = keys_of(plan, rows=SHAPE.prompts)
    logits = 4 * SHAPE.prompts * CONFIG.decoder.vocab_size
    # Beside them tags of tokens, and where prompts end.
    assert keys + logits < found.new_results < keys + logits + 2000
    assert found.batch > 4 * 3 * SHAPE.prompts * CONFIG.vision.image_size**2


@pytest.mark.parametrize("budgets", [["none"], ["none", "all"]], ids=str)
def test_a_step_of_decoding_writes_where_its_slots_are(budgets):
    found, plan = compiled(compile_decode, budgets)
    assert (found.parameters, found.optimizer) == (4 * count_parameters(), 0)
    assert found.conditionals == 0
    keys = keys_of(plan, rows=SHAPE.slots)
    # Beside them tags of tokens, and of each answer its tokens and a few numbers.
    assert keys < found.batch < keys + 3000
    # Slots are given back in their own memory; a list of where they are is new.
    assert found.new_results < 1000
    # The tower, which nothing is shown to, is among the parameters and is not read.
    assert found.arguments < found.parameters + found.batch


def count_parameters():
    return sum(x.size for x in jax.tree.leaves(parameter_shapes(CONFIG)))


def keys_of(plan, *, rows):
    """Returns the bytes of keys and values of so many prompts and their answers."""
    return cache_bytes(
        CONFIG,
        plan.budgets.largest,
        text_slots=SHAPE.text_tokens + SHAPE.new_tokens - 1,
        image_tokens=SHAPE.image_tokens,
        rows=rows,
    ).total


@pytest.mark.parametrize("program", ["prefill", "decode"])
def test_what_is_told_of_a_program_is_counted_for_it(program, monkeypatch, capsys):
    """...of two prompts that are read, or of three answers that are written."""
    found, plan = compiled(compile_prefill, ["all"])
    monkeypatch.setattr(command, "compile_in_child", lambda *_: found)
    options = types.SimpleNamespace(program=program, json=True, effort="full")
    assert command.run_answers(plan, Slices(topology="v5e:1x1"), options) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["program"], told["budget"]) == (program, plan.budgets.largest.name)
    counted = plan.columns()[plan.budgets.largest.name]
    rows = SHAPE.prompts if program == "prefill" else SHAPE.slots
    cost = account(
        CONFIG,
        plan.budgets.largest,
        text_tokens=SHAPE.text_tokens,
        image_tokens=SHAPE.image_tokens,
        crops=SHAPE.crops,
        batch=rows,
        logit_positions=1,
    )
    if program == "prefill":
        assert told["flops"] == cost.end_to_end
        assert told["formula"] == counted.total - counted.answers
    else:
        # The last token sees the prompt, and all of its answer before it.
        assert told["flops"] == cost.decode_per_token(12 + 5 - 1)
        assert told["formula"] == counted.parameters + counted.answers


def test_prompts_of_no_length_are_refused():
    with pytest.raises(ValueError, match="'text_tokens': 0"):
        dataclasses.replace(SHAPE, text_tokens=0)
