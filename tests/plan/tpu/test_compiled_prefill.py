"""A prefill is compiled as it answers: its arrays, and the cache that it leaves."""

import dataclasses

import jax
import numpy as np
import pytest

from tests import tiny
from visor_jax.budget import BudgetSet
from visor_jax.flops.cache_bytes import cache_bytes
from visor_jax.models.parameters import parameter_shapes
from visor_jax.plan.answer_bytes import AnswerShape
from visor_jax.plan.answers import AnswerPlan
from visor_jax.plan.tpu.compiled_prefill import compile_prefill
from visor_jax.sharding.mesh import MESH_AXES, planned_mesh

CONFIG = tiny.VISOR
SHAPE = AnswerShape(
    prompts=2, slots=3, crops=1, image_tokens=9, text_tokens=12, new_tokens=5
)


def compiled(budgets):
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
    return compile_prefill(plan, mesh, effort="full"), plan


@pytest.mark.parametrize("budgets", [["none"], ["none", "all"]], ids=str)
def test_it_is_a_prefill_at_the_largest_budget(budgets, monkeypatch):
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    found, plan = compiled(budgets)
    parameters = sum(4 * x.size for x in jax.tree.leaves(parameter_shapes(CONFIG)))
    assert (found.parameters, found.optimizer) == (parameters, 0)
    # Gates are static: what is off is not there, and nothing is asked.
    assert found.conditionals == 0
    room = SHAPE.text_tokens + SHAPE.new_tokens - 1
    keys = cache_bytes(
        CONFIG,
        plan.budgets.largest,
        text_slots=room,
        image_tokens=SHAPE.image_tokens,
        rows=SHAPE.prompts,
    ).total
    logits = 4 * SHAPE.prompts * CONFIG.decoder.vocab_size
    # Beside them tags of tokens, and where prompts end.
    assert keys + logits < found.new_results < keys + logits + 2000
    assert found.batch > 4 * 3 * SHAPE.prompts * CONFIG.vision.image_size**2


def test_prompts_of_no_length_are_refused():
    with pytest.raises(ValueError, match="'text_tokens': 0"):
        dataclasses.replace(SHAPE, text_tokens=0)
