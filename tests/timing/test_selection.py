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
from visor_jax.timing.selection.methods import Timed, all_reads, timed_methods

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
    assert rows[0].choosing == 0
    assert all(row.prefill > 0 and row.dense == rows[0].prefill for row in rows)
    assert shown[-1] == (12, 12)


def test_apart_from_the_tower_a_method_makes_what_the_network_makes(pictures, methods):
    pixels = pictures.pixels()
    params = selection._params(methods)
    for each in methods[1:]:
        mine = params[each.spec]
        see = programs.applied(each, programs.tower(all_reads(methods)))
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
    assert fastv.unchosen.image_lengths(144, 3) == fastv.lengths(144) == (144, 36, 36)
    params = selection._params(methods)[fastv.spec]
    prompts = pictures.prompts()
    image = programs.ImageTokens(prompts.image)
    logits, cache = programs.prefill(fastv, fastv.unchosen)(params, image, prompts)
    # The first 36 tokens have the positions that they had, and the others are gone.
    lengths = [layer.image.keys.shape[1] for layer in cache.layers]
    assert lengths == [144, 36, 36]
    assert bool(jnp.isfinite(logits).all())


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
        ("--variant=maxi", "Unknown variant 'maxi'"),
    ],
)
def test_mistakes_are_told_before_any_work(flag, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        own_flags.call(selection, flag)
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
