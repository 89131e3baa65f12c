"""What choosing before the decoder costs: formulas against the traced program.

Every method of the registry that works there, at sizes that do and do not fill blocks.
"""

import dataclasses

import pytest

from tests.flops import abstract_model
from tests.flops.jaxpr_flops import count_flops
from tests.token_reduction.pictures import CONFIG
from visor_jax.budget import Budget
from visor_jax.flops.account import account
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.decoder.token_reducer import crop_flops
from visor_jax.models.vlm import VLM
from visor_jax.token_reduction.crops.vispruner import VisPruner
from visor_jax.token_reduction.prompt_account import prompt_account
from visor_jax.token_reduction.registry import BEFORE, REDUCERS, fitted, parse

LENGTHS = {"text_tokens": 5, "image_tokens": 37, "crops": 3, "batch": 2}
# The tower has two layers.
WITH = {"vscan_stage1": ",local_layer=0"}
# Those that choose; what makes a token of neighbours has no `keep`.
BEFORE_IT = [
    name
    for name, entry in REDUCERS.items()
    if entry.where == BEFORE and "keep" in {each.name for each in entry.settings}
]
SETTINGS = [
    "divprune:keep=0.3,scope=image,features=tower",
    "divprune:keep=0.3,start=first",
    "todre_stage1:keep=0.3,scope=image",
    "repulsion:keep=0.3,field=0.5,features=tower",
    "hired:keep=0.3,initial_layer=1,final_layer=-1",
    "vscan_stage1:keep=0.3,local_layer=1,global_layer=-1",
    # Nothing stays that could take others in.
    "visionzip:keep=0.02",
    "prumerge:keep=0.02",
    "vscan_stage1:keep=0.005,local_layer=0",
]


def sized(side):
    """Returns a network: 6 x 6 patches fit into a block, 13 x 13 fill two in part."""
    vision = dataclasses.replace(CONFIG.vision, image_size=4 * side, patch_size=4)
    return CONFIG.replace(vision=vision, plan=LayerPlan.dense(2))


def counted(config, method):
    """Returns the FLOPs of the program, and of the account without the method's own."""
    inputs = abstract_model.abstract_batch(config, **LENGTHS)
    params = abstract_model.abstract_params(config, inputs)
    found = count_flops(
        lambda p, b: VLM(config, method).apply({"params": p}, b, (True, True)).logits,
        *(params, inputs),
    )
    left = method.image_lengths(LENGTHS["image_tokens"], 2)
    budget = Budget.all(config.plan)
    return found, account(config, budget, **LENGTHS, image_lengths=left).end_to_end


@pytest.mark.parametrize(
    ("spec", "side"),
    [
        *((f"{name}:keep=0.3{WITH.get(name, '')}", 13) for name in BEFORE_IT),
        *((spec, 6) for spec in SETTINGS),
    ],
)
def test_choosing_costs_what_the_program_multiplies(spec, side):
    config = sized(side)
    method = fitted(parse(spec), config)
    program, others = counted(config, method)
    own = crop_flops(method, config, crops=LENGTHS["crops"])
    assert program == others + LENGTHS["batch"] * own


@pytest.mark.parametrize(
    ("spec", "is_projected_twice"),
    [
        ("visionzip:keep=0.3", True),
        ("visionzip:keep=0.02", False),
        ("prumerge:keep=0.3", True),
        ("prumerge:keep=0.02", False),
        ("vscan_stage1:keep=0.3,local_layer=0", False),
        ("hired:keep=0.3", False),
    ],
)
def test_what_merges_before_a_convolution_is_projected_twice(spec, is_projected_twice):
    plain = sized(6)
    config, method = plain.replace(projector_convolution=3), parse(spec)
    program, others = counted(config, method)
    own = crop_flops(method, config, crops=LENGTHS["crops"])
    assert program == others + LENGTHS["batch"] * own
    without = crop_flops(method, plain, crops=LENGTHS["crops"])
    assert (own > without) == is_projected_twice


@pytest.mark.parametrize("tokens", [3, 6])
def test_a_smaller_picture_costs_what_the_smaller_tower_multiplies(tokens):
    config = sized(6)
    method = fitted(parse(f"lower_resolution:tokens={tokens}"), config)
    program, full = counted(config, method)
    cost = prompt_account(
        method,
        *(config, Budget.all(config.plan)),
        **{"text_tokens": 5, "image_tokens": 37, "image_slots": 0, "crops": 3},
    )
    # The logits of all five text tokens instead of one.
    more = 2 * 4 * config.decoder.width * config.decoder.vocab_size
    # Learned places, of the tower alone, once for all rows: 6 x 6 to 3 x 6 to 3 x 3.
    places = 2 * config.vision.width * 3 * 6 * (6 + 3) if tokens == 3 else 0
    assert program == 2 * (cost.end_to_end + more) + places
    assert (program < full) == (tokens == 3)


def test_a_formula_that_forgets_something_is_found():
    class Forgetful(VisPruner):
        def choice_flops(self, config, crops):
            return 0

    config = sized(6)
    program, others = counted(config, Forgetful())
    assert program > others + 2 * crop_flops(Forgetful(), config, crops=3)


def test_a_prompts_account_has_it_end_to_end_alone():
    config, lengths = sized(6), {"text_tokens": 5, "image_tokens": 37}
    method, budget = parse("visionzip:keep=0.3"), Budget.all(sized(6).plan)
    cost = prompt_account(method, config, budget, **lengths, image_slots=0, crops=3)
    own = crop_flops(method, config, crops=3)
    assert own > 0
    assert cost.crop_selection == own
    parts = cost.tower.total + cost.projector + cost.llm_prefill
    assert cost.end_to_end == parts + own
    # An image that is at hand has been chosen from.
    known = prompt_account(method, config, budget, **lengths, image_slots=0, crops=0)
    assert known.crop_selection == known.tower.total == 0
    assert known.llm_prefill == cost.llm_prefill
