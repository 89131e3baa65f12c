"""The plan of a network that answers: exact for arrays, by hand for programs."""

import collections
import dataclasses
import types

import jax
import numpy as np
import pytest

from tests.plan.small_plan import MODEL
from tests.sharding.mesh_run import mesh_of
from visor_jax.budget import Budget, BudgetSet
from visor_jax.checkpoints.placement import placed
from visor_jax.commands import plan_flags
from visor_jax.flops.cache_bytes import cache_bytes
from visor_jax.models.parameters import parameter_shapes
from visor_jax.plan import answers
from visor_jax.plan.accelerators import accelerator
from visor_jax.plan.answer_bytes import AnswerShape, answer_bytes
from visor_jax.sharding.mesh import planned_mesh

SHAPE = AnswerShape(
    prompts=8, slots=16, crops=2, image_tokens=392, text_tokens=1024, new_tokens=65
)
ALL, NONE = Budget.all(MODEL.plan), Budget.none()


def planned(sizes, budget=ALL, shape=SHAPE, **model):
    return answer_bytes(
        MODEL.replace(**model), shape, budget, mesh=planned_mesh(*sizes)
    )


def test_parameters_are_those_that_a_device_holds():
    mesh = mesh_of((2, 2, 2))
    shapes = placed(parameter_shapes(MODEL), dtype=np.dtype("bfloat16"), mesh=mesh)
    arrays = [
        jax.device_put(np.zeros(x.shape, x.dtype), x.sharding)
        for x in jax.tree.leaves(shapes)
    ]
    held = sum(x.addressable_shards[0].data.nbytes for x in arrays)
    assert planned((2, 2, 2), compute_dtype="bfloat16").parameters == held


@pytest.mark.parametrize("budget", [ALL, NONE], ids=str)
@pytest.mark.parametrize(
    ("sizes", "slots", "prompts"),
    [((2, 2, 2), 4, 2), ((8, 1, 1), 2, 1), ((1, 1, 2), 16, 8)],
)
def test_keys_and_values_follow_the_closed_formula(sizes, slots, prompts, budget):
    """tests/flops holds the formula to numbers; both kinds of heads divide here."""
    found, tags = planned(sizes, budget), 9
    for rows, text, bytes_found in (
        (slots, 1024 + 64, found.answers),
        (prompts, 1024, found.prompts),
    ):
        keys = cache_bytes(
            MODEL, budget, text_slots=text, image_tokens=392, rows=rows
        ).total
        # Order, segment and validity of each token; how many columns are used.
        assert bytes_found == keys // sizes[2] + rows * tags * (text + 392) + 4


def test_heads_that_do_not_divide_are_kept_whole():
    """Two K/V heads over tensor 4, the adapters' four divide."""
    text, image = 2 * 2 * 32 * 4 * 1088 * 4, 2 * 32 * 4 * 392
    expected = 16 * (text + image * 2 + 2 * image * 4 // 4 + 9 * (1088 + 392)) + 4
    assert planned((1, 1, 4)).answers == expected


def test_work_by_hand():
    """One prompt on each of two devices, heads and mlp over tensor 4, float32."""
    shape = dataclasses.replace(SHAPE, prompts=2)
    found = planned((2, 1, 4), shape=shape)
    # 196 patches: 2 E and 2 mlp / 4 of both crops at once, E twice of both; pixels. The
    # tower writes its scores: two heads of 196 x 196.
    patches = 196 * (2 * (2 * 64 + 2 * 256 // 4) + 2 * 2 * 64)
    pixels, scores = 2 * 3 * 112**2, 2 * 2 * 196 * 196 // 4
    assert found.moments["tower"] == 4 * (patches + pixels + scores)
    # 1416 tokens refined: 2 D and 3 mlp / 4, and D twice; 1416^2 scores are too many.
    assert found.moments["decoder"] == 4 * 1416 * (2 * 128 + 3 * 512 // 4 + 2 * 128)
    assert found.moments["logits"] == 4 * 4096 // 4
    assert found.peak == "decoder"
    assert found.total == sum(
        (found.parameters, found.answers, found.prompts, found.moments["decoder"])
    )


def test_what_is_split_over_fsdp_is_gathered_for_its_layer():
    one, split = planned((1, 1, 1)), planned((1, 8, 1))
    # Most is in no layer: the table, the projector, patches and their places. Seven
    # eighths of it are elsewhere.
    rest = 4096 * 128 + (64 + 128) * 128 + (3 * 8**2 + 196) * 64
    assert split.moments["logits"] == 4 * 4096 + 4 * rest * 7 // 8
    assert one.moments["logits"] == 8 * 4 * 4096


def options(**given):
    names = ("crops", "image_tokens", "text_tokens", "mesh", "dtype")
    values = {**dict.fromkeys(names), "rows": 8, "slots": 16, "new_tokens": 65, **given}
    return types.SimpleNamespace(**values)


def text(lengths=None, **given):
    network = MODEL, BudgetSet.parse(["none", "all"], MODEL.plan)
    lengths = dataclasses.asdict(SHAPE) if lengths is None else lengths
    plan = answers.read_plan(options(**given), "small", network, lengths)
    return answers.as_text(plan, [accelerator("v5e")])


def test_the_table_and_the_verdict():
    lines = text(mesh="2,1,2", dtype="bfloat16").splitlines()
    assert lines[0].startswith(
        "small answers on 4 devices (data 2 x fsdp 1 x tensor 2)"
    )
    assert lines[0].endswith("bfloat16: 8 prompts read at once, 16 answers written")
    assert lines[3].split() == ["sa0", "sa1:2"]
    total = planned((2, 1, 2), compute_dtype="bfloat16").total
    assert f"{total / 1e9:.3f}" in next(x for x in lines if x.startswith("total"))
    assert any(x.startswith("v5e") and x.endswith("fits") for x in lines)


def test_flags_of_the_other_plan_are_refused():
    def given(*names):
        return collections.defaultdict(
            lambda: types.SimpleNamespace(present=False, value=False),
            {name: types.SimpleNamespace(present=True, value=True) for name in names},
        )

    plan_flags.check_no_training(given("rows", "dtype", "compile", "topology"))
    plan_flags.check_no_answers(given("batch_size"))
    with pytest.raises(ValueError, match="--batch_size are of training"):
        plan_flags.check_no_training(given("batch_size", "compile"))
    with pytest.raises(ValueError, match="add --topology=SLICE"):
        plan_flags.check_no_training(given("compile"))
    with pytest.raises(ValueError, match="--program is for --compile"):
        plan_flags.check_no_training(given("rows", "program"))
    with pytest.raises(ValueError, match="--program belong to --answers"):
        plan_flags.check_no_answers(given("program", "compile", "topology"))
    with pytest.raises(ValueError, match="--checkpoint, --slots belong to --answers"):
        plan_flags.check_no_answers(given("checkpoint", "slots"))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"mesh": "1,1,3"}, "4 query heads do not split over tensor 3"),
        ({"mesh": "1,5,1"}, "does not split into 5"),
        ({"mesh": "1,-1,1"}, "three numbers of at least 1"),
        ({"rows": 0}, "'prompts': 0"),
        ({"lengths": {"crops": 2}}, "add --image_tokens, --text_tokens"),
    ],
)
def test_bad_values_are_named(given, complaint):
    with pytest.raises(ValueError, match=complaint):
        text(**given)
