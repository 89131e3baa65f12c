"""Methods at any number of tokens, in the network of the embedded benchmark."""

import pytest

from visor_jax.evals.baselines.family import Family
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
    with pytest.raises(ValueError, match="not with"):
        family("uniform").most_that(lambda spec: True)
