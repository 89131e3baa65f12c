"""Answers over eight devices are those of one: prompts, caches, slots, images, policy.

One device answers by `generation.generate` alone; the engine runs on the meshes.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests import tiny
from tests.inference import tiny_processor
from tests.sharding.collectives import collectives
from tests.sharding.mesh_run import mesh_of
from tests.tolerances import REORDERED
from visor_jax.budget import BudgetSet
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.stop_tokens import cut_at_end
from visor_jax.inference.batch_answers import batch_logits
from visor_jax.inference.engine import programs as engine_programs
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.engine.engine_config import EngineConfig
from visor_jax.inference.engine.placement import Placement
from visor_jax.inference.engine.slots import without_cache
from visor_jax.inference.generation.decode_step import with_token
from visor_jax.inference.generation.generate import generate
from visor_jax.inference.generation.prefill import prefill
from visor_jax.inference.routing.router import PolicyRouter, fixed
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.config import AdapterConfig
from visor_jax.models.vlm import VLM
from visor_jax.policy.choose import choose
from visor_jax.policy.network import Policy, PolicyConfig, new_policy, prompt_logits
from visor_jax.sharding import programs
from visor_jax.sharding.param_rules import param_shardings, replicated

MESHES = ((8, 1, 1), (1, 1, 8), (2, 2, 2))


def meshes(*quick):
    """Returns the meshes; a test compiles its programs for each, so few are quick."""
    return [
        pytest.param(each, marks=[pytest.mark.slow] * (each not in quick), id=str(each))
        for each in MESHES
    ]


# Eight heads, and adapters with as many K/V heads; two of the decoder's own attention,
# which tensor 8 does not divide.
CONFIG = tiny.VISOR.replace(
    vision=dataclasses.replace(tiny.VISION, num_layers=1),
    decoder=dataclasses.replace(
        tiny.DECODER, num_heads=8, head_dim=4, tie_embeddings=False
    ),
    adapter=AdapterConfig(num_kv_heads=8),
    plan=LayerPlan.build(3, cross=(0, 2), self_=(1,)),
)
MODEL = VLM(CONFIG)
BUDGETS = BudgetSet.parse(["none", "all"], CONFIG.plan)
# Of ordinary size; and with so much noise that answers do not repeat themselves.
QUIET = tiny.params_of(CONFIG)["params"]
PARAMS = tiny.perturbed(QUIET, jax.random.key(7), 0.4)
PROCESSOR = tiny_processor.processor(CONFIG, eos_id=24)
COUNT = 5


def _policy(params):
    config = PolicyConfig(num_budgets=2, hidden_widths=())
    return Policy(config=config, params=params, costs=(1.0, 2.0))


POLICY = _policy(
    tiny.perturbed(
        new_policy(
            PolicyConfig(num_budgets=2, hidden_widths=()),
            CONFIG.decoder.width,
            jax.random.key(0),
        ),
        jax.random.key(5),
        1.0,
    )
)


@functools.cache
def requests():
    """Returns prompts, and other questions about some of their images."""
    first = tiny_processor.requests(12, seed=3)
    again = [Request("5 9 2", first[i].images) for i in (0, 1, 2)]
    return first, again


@functools.cache
def samples():
    first, again = requests()
    found = [PROCESSOR.sample(each, room=COUNT) for each in (*first, *again)]
    # Sixteen rows: eight devices, two each.
    return PROCESSOR.buckets.batch([*found, found[0]], tiny_processor.LARGE)


def tokens_of(params, budget):
    return np.asarray(
        generate(
            MODEL,
            params,
            samples(),
            budget,
            max_new_tokens=COUNT,
            eos_id=PROCESSOR.eos_ids,
            pad_id=0,
        )
    )


def logits_of(params):
    gates = BUDGETS.largest.gates(CONFIG.plan)
    return np.asarray(batch_logits(params, samples(), model=MODEL, gates=gates))


@functools.cache
def one_device():
    """Returns logits, tokens at each budget, and the policy's choices."""
    logits = prompt_logits(
        PARAMS, POLICY.params, samples(), model=MODEL, config=POLICY.config
    )
    chosen = choose(np.asarray(logits)[:, 0], POLICY.costs, 0.0)
    assert set(chosen[:15]) == {0, 1}, "the policy chooses one budget for all"
    return logits_of(QUIET), [tokens_of(PARAMS, each) for each in BUDGETS], chosen


@functools.cache
def placed(sizes):
    mesh = mesh_of(sizes)
    params = jax.device_put(PARAMS, param_shardings(PARAMS, mesh))
    return params, _policy(jax.device_put(POLICY.params, replicated(mesh)))


@functools.cache
def engine_on(sizes):
    params, policy = placed(sizes)
    config = EngineConfig(
        rows=1,
        pending=4,
        # Two on each device, or fewer: slots are filled again.
        slots={8: 8, 1: 2, 4: 4}[sizes[0] * sizes[1]],
        requests_per_row=1,
        tokens_per_turn=2,
        new_tokens=COUNT,
        images_at_once=1,
    )
    return Engine(
        MODEL, params, PROCESSOR, PolicyRouter(policy, BUDGETS), config=config
    )


@pytest.mark.parametrize("sizes", meshes((1, 1, 8)))
def test_logits_and_greedy_tokens_are_those_of_one_device(sizes):
    params, _ = placed(sizes)
    logits, tokens, _ = one_device()
    quiet = jax.device_put(QUIET, param_shardings(QUIET, mesh_of(sizes)))
    np.testing.assert_allclose(logits_of(quiet), logits, **REORDERED)
    np.testing.assert_array_equal(tokens_of(params, BUDGETS.largest), tokens[1])


@pytest.mark.parametrize("sizes", meshes((1, 1, 8)))
def test_the_cache_of_prompts_is_split_by_rows_and_by_heads_that_divide(sizes):
    params, _ = placed(sizes)
    made = prefill(MODEL, params, samples(), BUDGETS.largest, spare=7)
    cross, own = made.cache.layers[0], made.cache.layers[1]
    rows, tensor = 16 // (sizes[0] * sizes[1]), sizes[2]
    # Two K/V heads do not split over eight devices.
    own_heads = 2 if tensor == 8 else 2 // tensor
    for held, heads in ((cross, 8 // tensor), (own, own_heads)):
        keys = held.image.keys
        shape = keys.sharding.shard_shape(keys.shape)
        assert (shape[0], shape[2]) == (rows, heads)


@pytest.mark.parametrize("sizes", meshes((2, 2, 2)))
def test_an_engine_answers_as_one_device_does(sizes):
    """With a policy, freed slots and, the second time, images whose keys are kept."""
    _, tokens, chosen = one_device()
    engine = engine_on(sizes)
    answers = [a for asked in requests() for a in engine.answer_all(list(asked))]
    assert len(answers) == 15
    for row, answer in enumerate(answers):
        assert answer.error is None
        assert answer.budget == BUDGETS.budgets[chosen[row]]
        (expected,) = cut_at_end(tokens[chosen[row]][row : row + 1], PROCESSOR.eos_ids)
        assert answer.tokens == tuple(expected)
    kinds = {key[0] for key, _ in engine.programs.compiled.items()}
    assert "prefill_text" in kinds
    _check_slots(engine, sizes)


def _check_slots(engine, sizes):
    """Slots are split, and no program brings their keys together."""
    shapes = engine.shapes.abstract_slots(BUDGETS.largest, tiny_processor.LARGE)
    layers = shapes.cache.layers
    keys = layers[0].image.keys
    rows = engine.config.slots // min(engine.config.slots, sizes[0] * sizes[1])
    held = keys.sharding.shard_shape(keys.shape)
    assert held == (rows, 19, 8 // sizes[2], 4)
    whole = {x.shape for x in jax.tree.leaves(layers)}
    for key, program in engine.programs.compiled.items():
        if key[0] in ("prefill", "prefill_text", "decode"):
            found = collectives(program.as_text())
            sent = {shape for each in found for shape in each.numbers}
            assert not sent & whole, key


def test_one_device_of_several_is_alone_and_places_nothing(monkeypatch):
    """Where kernels have to be told; see tests/sharding/test_programs.py."""
    monkeypatch.setattr(programs, "_ALONE_ON", ("cpu",))
    contexts = []

    def traced(*arguments):
        contexts.append(jax.sharding.get_abstract_mesh().size)
        return with_token(*arguments)

    monkeypatch.setattr(engine_programs, "with_token", traced)
    engine = Engine(MODEL, PARAMS, PROCESSOR, fixed(BUDGETS.smallest))
    assert engine.shapes.placement == Placement(None)
    place = BUDGETS.smallest, tiny_processor.LARGE
    slots = engine.programs.new_slots(*place)
    program = engine.programs.first_tokens(len(slots.limit))
    logits = np.eye(len(slots.limit), 40, k=3, dtype=np.float32)
    made = program(without_cache(slots), logits, np.ones(len(slots.limit), bool))
    assert contexts == [1]
    assert np.asarray(made.newest)[:4].tolist() == [3, 4, 5, 6]


def test_so_many_slots_that_every_device_has_as_many():
    many, one = Placement(mesh_of((2, 4, 1))), Placement(None)
    assert [many.most_rows(n, 100) for n in (16, 17, 8, 7, 4, 1)] == [
        16,
        16,
        8,
        7,
        4,
        1,
    ]
    assert many.most_rows(16, 1) == 8
    # Four over data alone would be two on a device.
    assert many.most_rows(4, 1) == 2
    assert [one.most_rows(n, 3) for n in (16, 2)] == [3, 2]
