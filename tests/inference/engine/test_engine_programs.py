"""The engine's programs, read as they are: no layer's work that its budget leaves out.

FLOPs are counted in the traced program and compared with the closed formulas; shapes
and conditionals are read in what the compiler made.
"""

import re

import pytest

from tests import tiny
from tests.flops.jaxpr_flops import count_jaxpr_flops
from tests.inference import tiny_processor
from tests.inference.engine import tiny_engine
from visor_jax.flops import layer_costs
from visor_jax.flops.account import account
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.engine.packed_prompts import image_shape
from visor_jax.inference.engine.program_keys import all_keys, name_of
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.config import VLMConfig
from visor_jax.models.vlm import VLM

# Two SELF layers in a row: one may be on while the other is off.
PLAN = LayerPlan.build(4, cross=(0, 3), self_=(1, 2))
CONFIG = tiny_engine.CONFIG.replace(plan=PLAN)
BUDGETS = tuple(tiny.every_budget(CONFIG))
BUCKET = tiny_processor.LARGE
IMAGE = BUCKET.image_tokens


@pytest.fixture
def programs(monkeypatch):
    router = tiny_engine.scripted(BUDGETS)
    params = tiny.params_of(CONFIG)["params"]
    config, processor = (
        tiny_engine.ENGINE_CONFIG,
        tiny_processor.processor(CONFIG, eos_id=39),
    )
    found = Engine(VLM(CONFIG), params, processor, router, config=config).programs
    # Traced, not compiled.
    monkeypatch.setattr(found, "_get", lambda key, trace: trace())
    return found


def expected(config: VLMConfig, budget, rows):
    """Returns the matmul FLOPs of the layers before and after the trunk."""
    cost = account(
        config,
        budget,
        text_tokens=BUCKET.text_tokens,
        image_tokens=IMAGE,
        crops=0,
        logit_positions=0,
        batch=rows,
    )
    # The model writes the convolution as multiply-adds.
    layers = [layer.total - layer.adapter_convolution for layer in cost.layers]
    trunk = config.plan.trunk_length
    # What is made of the image alone comes with the image.
    image = sum(layer.adapter_key_value for layer in cost.layers[:trunk])
    return sum(layers[:trunk]) - image, sum(layers[trunk:])


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_a_program_costs_what_its_budget_says(programs, budget):
    for rows in (1, 2):
        before, after = expected(CONFIG, budget, rows)
        trunk = programs.prefill_trunk(BUCKET, rows).jaxpr.jaxpr
        assert count_jaxpr_flops(trunk) == before
        rest = programs.prefill(budget, BUCKET, rows).jaxpr.jaxpr
        head = layer_costs.lm_head(
            CONFIG.decoder, positions=programs.shapes.engine_config.slots
        )
        assert count_jaxpr_flops(rest) == after + head


def test_an_image_costs_tower_projector_and_the_first_adapter(programs):
    cost = account(
        CONFIG, BUDGETS[0], text_tokens=1, image_tokens=IMAGE, crops=BUCKET.crops
    )
    encode = programs.encode(image_shape(BUCKET), 1).jaxpr.jaxpr
    wanted = cost.tower.total + cost.projector + cost.layers[0].adapter_key_value
    assert count_jaxpr_flops(encode) == wanted


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_no_layer_computes_anything_of_a_kept_image(budget, programs):
    decoder, text, image = CONFIG.decoder, BUCKET.text_tokens, BUCKET.image_tokens
    alone = layer_costs.text_layer(decoder, text=text)
    lengths = {"text": text, "image": image}
    full = layer_costs.self_layer(decoder, **lengths, image_is_read=False)
    # Of the image there would be keys and values, but these are there.
    on = full.total - full.key_value + alone.key_value
    look = layer_costs.cross_adapter(decoder, CONFIG.adapter, **lengths, new_image=0)
    wanted = layer_costs.lm_head(decoder, positions=programs.shapes.engine_config.slots)
    wanted += sum(on if i in budget.self_layers else alone.total for i in (1, 2))
    wanted += look.total + alone.total
    text_alone = programs.prefill_text(budget, BUCKET, 1).jaxpr.jaxpr
    assert count_jaxpr_flops(text_alone) == wanted


def test_budgets_differ_in_cost():
    """...or the test above would say nothing."""
    assert len({expected(CONFIG, budget, 1)[1] for budget in BUDGETS}) > 2


def _lines_of_layer(text, layer):
    return [line for line in text.splitlines() if re.search(rf"layers_{layer}\b", line)]


def _holds(line, length):
    shapes = re.findall(r"\[([\d,]+)\]", line.split("metadata=")[0])
    return any(str(length) in shape.split(",") for shape in shapes)


@pytest.mark.parametrize("kind", ["prefill", "decode", "decode_draws"])
@pytest.mark.parametrize("budget", BUDGETS[1:3], ids=str)
def test_an_off_layer_touches_no_image(kind, budget, programs):
    arguments = (budget, BUCKET, 1) if kind == "prefill" else (budget, BUCKET)
    text = getattr(programs, kind)(*arguments).lower().compile().as_text()
    # What is on is known; how a token is chosen is asked when the program runs.
    conditions = [line for line in text.splitlines() if " conditional(" in line]
    assert all("sample_token" in line for line in conditions)
    assert bool(conditions) == (kind == "decode_draws")
    for layer in CONFIG.plan.self_layers:
        lines = _lines_of_layer(text, layer)
        assert lines
        touches = any(_holds(line, IMAGE) for line in lines)
        # Joined with the text, where the image itself is refined.
        touches |= any(_holds(line, IMAGE + BUCKET.text_tokens) for line in lines)
        assert touches == (layer in budget.self_layers), (kind, layer)


def test_every_program_has_a_key_and_a_name(programs):
    keys = all_keys(programs.shapes, [BUCKET, tiny_processor.SMALL], BUDGETS[:2])
    names = [name_of(key) for key in keys]
    assert len(set(keys)) == len(keys) == 2 * 2 + 2 * 2 + 1 + 2 * 2 * 5
    assert len(set(names)) == len(names)
    drawing = all_keys(programs.shapes, [BUCKET], BUDGETS[:2], draws=True)
    assert {key[0] for key in drawing} - {key[0] for key in keys} == {"decode_draws"}
    assert "prefill sa1:1 2x19+20 2" in names
