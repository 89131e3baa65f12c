"""A run that is split over devices: the same curves, and only what must be sent."""

import collections
import functools
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.sharding.collectives import collectives, conditional_results
from tests.sharding.mesh_run import CONFIG, SAMPLES, MeshRun, mesh_of, mesh_run
from tests.tolerances import EXACT, GRADIENT
from visor_jax.checkpoints.manager import CheckpointManager
from visor_jax.models.decoder.decoder import Decoder
from visor_jax.training.state import TrainState

ONE, FSDP = (1, 1, 1), (1, 8, 1)
MESHES = ((8, 1, 1), FSDP, (2, 2, 2))
STEPS = 15
# Ways to make the step: arguments of `make_universal_step`.
WAYS = {"plain": {}, "in parts": {"accumulate": 7}}
SLOW_WAYS = ("in parts",)
# Where a parameter is gathered, if not in the modules of its path.
SCOPES = {
    "language_model/embed_tokens/embedding": {"VLM", "logits"},
    "vision_tower/embeddings/position_embedding/embedding": {"embeddings"},
}


@functools.cache
def run(sizes: tuple[int, int, int], way: str = "plain") -> MeshRun:
    return mesh_run(sizes, **WAYS[way])


@functools.cache
def program(sizes: tuple[int, int, int]) -> str:
    return run(sizes).step.as_text()


@functools.cache
def one_device(way: str) -> dict[str, np.ndarray]:
    return run(ONE, way).curves(STEPS)


@pytest.mark.parametrize(
    "way",
    [pytest.param(way, marks=[pytest.mark.slow] * (way in SLOW_WAYS)) for way in WAYS],
)
@pytest.mark.parametrize("sizes", MESHES)
def test_loss_curves_are_those_of_one_device(sizes, way):
    expected = one_device(way)
    assert len(set(expected["loss"][:, 0])) > 5, "one budget was never drawn"
    for name, curve in run(sizes, way).curves(STEPS).items():
        np.testing.assert_allclose(curve, expected[name], **GRADIENT, err_msg=name)


def split_parameters(sizes: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """Returns {path: whole shape} of the parameters that the mesh splits."""
    made = run(sizes)
    params, places = (
        flax.traverse_util.flatten_dict(x, sep="/")
        for x in (made.state.params, made.shardings.params)
    )
    return {
        path: x.shape
        for path, x in params.items()
        if places[path].shard_shape(x.shape) != x.shape
    }


def is_in_its_module(path: str, scopes: tuple[str, ...]) -> bool:
    modules = SCOPES.get(path) or set(path.split("/")[:-1])
    return all(modules <= set(re.split(r"[/.]", scope)) for scope in scopes)


def gathered_parameters(text: str) -> tuple[set[str], list[str]]:
    """Returns the parameters that a program gathers, and its other gathers."""
    split, found, strays = split_parameters(FSDP), set(), []
    for gather in collectives(text):
        if gather.kind != "all-gather" or not gather.numbers:
            continue
        (shape,) = gather.numbers
        mine = {
            path
            for path, whole in split.items()
            # The compiler may gather a transposed kernel.
            if sorted(whole) == sorted(shape) and is_in_its_module(path, gather.scopes)
        }
        found |= mine
        if len(mine) != 1 or not gather.scopes:
            strays.append(f"{shape} is gathered in {gather.scopes}")
    return found, strays


def test_fsdp_gathers_one_parameter_at_a_time_inside_its_own_layer():
    found, strays = gathered_parameters(program(FSDP))
    assert not strays
    assert found == {p for p in split_parameters(FSDP) if "post_layernorm" not in p}


@pytest.mark.slow
def test_an_unconstrained_lookup_would_gather_the_table(monkeypatch):
    """The test above sees it when a constraint is gone."""
    monkeypatch.setattr(
        Decoder,
        "embed",
        lambda self, tokens, tags: self.stream(self.embed_tokens(tokens), tags),
    )
    _, strays = gathered_parameters(mesh_run(FSDP).step.as_text())
    assert strays
    assert all("embed_tokens" in stray for stray in strays)


def test_fsdp_reduces_the_gradient_of_every_split_parameter():
    reduced = collections.Counter(
        tuple(sorted(shape))
        for one in collectives(program(FSDP))
        if one.kind in ("all-reduce", "reduce-scatter")
        for shape in one.numbers
    )
    wanted = collections.Counter(
        tuple(sorted(whole)) for whole in split_parameters(FSDP).values()
    )
    assert wanted <= reduced


def test_gated_layers_hand_on_gradients_that_are_split():
    """The conditional returns a layer's gradients: whole ones would all pile up."""
    whole = {tuple(sorted(shape)) for shape in split_parameters(FSDP).values()}
    handed_on = conditional_results(program(FSDP))
    assert len(handed_on) >= 2 * len(CONFIG.plan.self_layers)
    found = [tuple(sorted(s)) for results in handed_on for s in results if len(s) == 2]
    assert found
    assert not whole & set(found)


def test_data_parallel_copies_gather_no_numbers_at_all():
    gathers = [c for c in collectives(program((8, 1, 1))) if c.kind == "all-gather"]
    assert not [c for c in gathers if c.numbers]


def whole_batch(sizes: tuple[int, int, int]) -> list[str]:
    """Returns the collectives that make numbers of all samples on one device."""
    batch = run(sizes).batch
    crops = batch.pixels.shape[1]
    text, image = batch.tokens.shape[1], batch.image_mask.shape[1]
    patches = crops * CONFIG.vision.num_patches
    leading = {SAMPLES * n for n in (1, crops, patches, text, image, text + image)}
    return [
        f"{one.kind} {shape} in {one.scopes}"
        for one in collectives(program(sizes))
        for shape in one.numbers
        if shape and shape[0] in leading
    ]


@pytest.mark.parametrize("sizes", MESHES)
def test_activations_are_never_gathered_over_the_batch(sizes):
    assert not whole_batch(sizes)


def test_a_gather_over_the_batch_would_be_seen():
    """The same reading of a program that does what the step must not."""
    mesh = mesh_of(FSDP)
    over = functools.partial(jax.NamedSharding, mesh)
    split = jax.ShapeDtypeStruct(
        (SAMPLES, 4), jnp.float32, sharding=over(jax.P("fsdp"))
    )
    whole = jax.jit(lambda x: x + 1, out_shardings=over(jax.P()))
    (gather,) = collectives(whole.lower(split).compile().as_text())
    assert (gather.kind, gather.numbers) == ("all-gather", [(SAMPLES, 4)])


@pytest.mark.parametrize("sizes", MESHES)
def test_the_step_returns_parameters_and_moments_split_alike(sizes):
    made = run(sizes)
    after = made.step(made.state, made.batch)
    split_alike = jax.tree.map(
        lambda x, wanted: x.sharding.is_equivalent_to(wanted, x.ndim),
        after,
        made.shardings,
    )
    assert all(jax.tree.leaves(split_alike))
    kernel = after.params["language_model"]["layers_1"]["mlp"]["up_proj"]["kernel"]
    moments = [
        x
        for path, x in jax.tree.leaves_with_path(after.opt_state)
        if "layers_1" in jax.tree_util.keystr(path) and x.shape == kernel.shape
    ]
    assert moments
    for moment in moments:
        assert moment.addressable_shards[0].data.shape == (
            kernel.addressable_shards[0].data.shape
        )


@pytest.mark.parametrize(
    ("before", "after"), [(FSDP, ONE), (ONE, FSDP), ((2, 2, 2), (8, 1, 1))]
)
def test_a_run_goes_on_on_another_mesh(tmp_path, before, after):
    old, new = run(before), run(after)
    state = old.step(old.state, old.batch)
    with CheckpointManager(tmp_path, save_every=1) as manager:
        manager.save(
            1,
            params=state.params,
            optimizer=state.all_but_params(),
            data_iterator=None,
            metadata={"model": {}, "budgets": [], "task": "t", "metrics_offset": 0},
        )
        params, rest, _ = manager.restore_training(
            new.state.params, new.state.all_but_params(), None
        )
    resumed = TrainState(params=params, **rest)
    compare = functools.partial(np.testing.assert_allclose, **EXACT)
    jax.tree.map(compare, resumed, state)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, **GRADIENT),
        new.step(resumed, new.batch).params,
        old.step(state, old.batch).params,
    )
