"""Times of choosing: what is timed, of what, and what stands in for a choice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import own_flags
from visor_jax.budget import Budget
from visor_jax.evals.benchmark import PromptLengths
from visor_jax.models.variants import dense, mini
from visor_jax.models.vlm import VLM
from visor_jax.timing.accelerator import network
from visor_jax.timing.selection import __main__ as selection
from visor_jax.timing.selection import programs
from visor_jax.timing.selection.methods import Timed, every_token, timed_methods

CONFIG = dense(
    mini().replace(plan=mini().plan.build(3, cross=(), self_=(1,)), reading_layers=())
)
PROMPT = PromptLengths(text_tokens=8, image_tokens=144, crops=1)
METHODS = ("fastv:layer=1,keep=0.25", "visionzip", "ldpv2")


@pytest.fixture(scope="module")
def pictures():
    patches = selection.patches_of("base", CONFIG)
    return programs.Pictures.make("base", CONFIG, patches, text_tokens=8, rows=2)


@pytest.fixture(scope="module")
def methods():
    return list(timed_methods(CONFIG, PROMPT, 0.25, METHODS))


def test_a_row_for_every_method_and_the_network_without(pictures, methods):
    shown = []
    rows = selection.selection_times(
        pictures, methods, runs=1, progress=lambda *counts: shown.append(counts)
    )
    assert [row.method for row in rows] == [
        "none",
        "fastv:layer=1,keep=0.25",
        "visionzip:keep=0.25",
        "ldpv2",
    ]
    assert [row.tokens for row in rows] == [144, (144 + 36 + 36) / 3, 36, 36]
    assert all(row.prefill > 0 and row.dense == rows[0].prefill for row in rows)
    # Two towers, of which one hands out queries and keys; one prefill more for FastV.
    assert shown[-1] == (11, 11)


def test_seconds_are_added_up_as_the_table_says(pictures, methods):
    every = every_token(CONFIG)
    fastv, visionzip, ldpv2 = methods
    saw = {fastv.tower_reads: 10.0, visionzip.tower_reads: 10.5}
    made = {"none": 1.0, fastv.spec: 1.0, visionzip.spec: 1.25, "ldpv2": 1.5}
    read = {
        (144, every.reducer.position_rule): 8.0,
        fastv.spec: 5.0,
        f"{fastv.spec}, first tokens": 4.5,
        (36, visionzip.reducer.position_rule): 2.0,
        (36, ldpv2.reducer.position_rule): 2.0,
    }
    found = selection._rows([every, *methods], pictures, saw, made, read)
    assert [(row.choosing, row.prefill, row.dense) for row in found] == [
        (0, 19, 19),
        (0.5, 16, 19),
        (0.75, 13.75, 19),
        (0.5, 13.5, 19),
    ]


def test_apart_from_the_tower_a_method_makes_what_the_network_makes(pictures, methods):
    pixels = pictures.pixels()
    params = selection._params(methods)
    for each in methods[1:]:
        mine = params[each.spec]
        see = programs.applied(each, programs.tower(each.tower_reads))
        features, parts = see(mine, pixels)
        make = programs.applied(each, programs.between(each, pictures))
        found = make(mine, features, parts, pixels)
        index, weights = pictures.packed()
        whole = VLM(each.config, each.reducer).apply(
            {"params": mine}, pixels, index, weights, method=VLM.encode_image
        )
        jax.tree.map(np.testing.assert_array_equal, found, whole)


def test_first_tokens_stay_where_nobody_chooses(pictures, methods):
    (fastv, *_) = methods
    assert fastv.looks_inside
    assert not any(each.looks_inside for each in methods[1:])
    unchosen = fastv.unchosen(144)
    assert unchosen.image_lengths(144, 3) == fastv.lengths(144) == (144, 36, 36)
    params = selection._params(methods)[fastv.spec]
    prompts = pictures.prompts()
    image = programs.ImageTokens(prompts.image)
    logits, cache = programs.prefill(fastv, unchosen)(params, image, prompts)
    assert [layer.image.keys.shape[1] for layer in cache.layers] == [144, 36, 36]
    for layer in cache.layers[1:]:
        expected = np.broadcast_to(np.arange(36), (2, 36))
        np.testing.assert_array_equal(layer.image_tags.order, expected)
    assert bool(jnp.isfinite(logits).all())


def test_a_method_of_two_stages_is_set_beside_as_many_tokens():
    (sts,) = timed_methods(CONFIG, PROMPT, 0.25, ["sts:keep=0.5"])
    lengths = sts.lengths(144)
    # A half before the decoder, and fewer behind its own layer.
    assert lengths[0] == 72 > lengths[-1]
    assert sts.looks_inside
    assert sts.unchosen(144).image_lengths(72, 3) == lengths


def test_what_cannot_be_timed_says_why():
    found = list(timed_methods(CONFIG, PROMPT, 0.01, ("pyramiddrop", "hired:keep=9")))
    assert [isinstance(each, Timed) for each in found] == [False, False]
    assert "keep=9" in found[1][1]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--methods=zip", "--methods=zip: there are fastv"),
        ("--share=0", "--share=0"),
        ("--pictures=wide", "'wide' is no WIDTHxHEIGHT"),
        ("--pictures=640x480 --variant=mini", "this network has none"),
        ("--variant=maxi", "Unknown variant 'maxi'"),
    ],
)
def test_mistakes_are_told_before_any_work(flag, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        own_flags.call(selection, *flag.split())
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_picture_of_tiles_has_newlines(methods):
    config = dense(mini().replace(reading_layers=(), image_newline=True))
    patches = selection.patches_of("200x100", config)
    made = programs.Pictures.make("x", config, patches, text_tokens=8, rows=2)
    assert made.of.crops == patches.crops > 1
    assert made.index.max() == patches.crops * config.vision.num_patches
    assert Budget.all(config.plan).self_layers == tuple(range(9))
    assert network.prompts(made.of, rows=2).image.shape[1] == patches.count
