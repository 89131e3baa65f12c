"""Methods at any number of tokens, in the network of the embedded benchmark."""

import pytest

from visor_jax.evals.baselines.family import Family, ImpossibleError
from visor_jax.evals.benchmark import PromptLengths
from visor_jax.evals.pages.benchmark import PROMPT_LENGTHS
from visor_jax.models.variants import dense, variant
from visor_jax.token_reduction.registry import fitted, parse

CONFIG = dense(variant("mini"))
TOKENS, DEPTH = PROMPT_LENGTHS.image_tokens, CONFIG.plan.num_layers


def family(name):
    return Family(name, CONFIG, PROMPT_LENGTHS)


def left(spec):
    """Returns the image tokens of a layer in the mean."""
    lengths = fitted(parse(spec), CONFIG).image_lengths(TOKENS, DEPTH)
    return sum(lengths) / DEPTH


@pytest.mark.parametrize(
    ("name", "tokens", "spec", "mean"),
    [
        # 12 x 12 patches: the largest square that fits.
        ("lower_resolution", 72, "lower_resolution:tokens=8", 64),
        ("lower_resolution", 36, "lower_resolution:tokens=6", 36),
        ("lower_resolution", 1, "lower_resolution:tokens=1", 1),
        ("visor_tr", 72, "visor_tr:factor=2", 72),
        ("visor_tr", 36, "visor_tr:factor=4", 36),
        ("uniform", 18, "uniform:keep=0.125", 18),
        # The authors' layers 6 and 22 of 24 are no layers of a tower of two.
        ("hired", 36, "hired:keep=0.25", 36),
    ],
)
def test_a_method_leaves_as_many_as_it_is_asked_for(name, tokens, spec, mean):
    found = family(name).at(tokens)
    assert found.split(",")[0] == spec
    assert left(found) == mean


# 5 crops of 27 x 27 patches in 2,929 tokens, newlines among them.
ANYRES = dense(variant("llava_ov_0p5b"))
PICTURE = PromptLengths(text_tokens=64, image_tokens=2929, crops=5)


@pytest.mark.parametrize(
    ("name", "tokens", "spec"),
    [
        # 12 a side would leave 604.
        ("lower_resolution", 732, "lower_resolution:tokens=13"),
        ("visor_tr", 1465, "visor_tr:factor=3"),
    ],
)
def test_of_a_picture_in_tiles_as_many_as_fit(name, tokens, spec):
    found = Family(name, ANYRES, PICTURE).at(tokens)
    assert found == spec
    layers = ANYRES.plan.num_layers
    assert fitted(parse(found), ANYRES).image_lengths(2929, layers)[0] <= tokens
    setting, number = spec.rsplit("=", 1)
    step = 1 if name == "lower_resolution" else -1
    more = fitted(parse(f"{setting}={int(number) + step}"), ANYRES)
    assert more.image_lengths(2929, layers)[0] > tokens


@pytest.mark.parametrize("name", ["lower_resolution", "visor_tr", "uniform"])
def test_no_tokens_are_too_few(name):
    with pytest.raises(ValueError, match=r"as few as 0|keep=0"):
        family(name).at(0)


@pytest.mark.parametrize("name", ["lower_resolution", "visor_tr", "uniform", "fastv"])
def test_the_most_that_fits(name):
    most = 50
    found = family(name).most_that(lambda spec: left(spec) <= most)
    assert 36 <= left(found) <= most


def test_none_fits():
    assert family("uniform").most_that(lambda spec: False) is None


def test_what_is_possible_with_no_number_of_tokens_says_why(monkeypatch):
    def impossible(self, tokens):
        raise ValueError(f"not with {tokens}")

    monkeypatch.setattr(Family, "at", impossible)
    with pytest.raises(ImpossibleError, match="not with"):
        family("uniform").most_that(lambda spec: True)
