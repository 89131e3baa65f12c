"""Names of methods: read, written, and refused with what there is instead."""

import dataclasses
import typing

import hypothesis
import pytest
from hypothesis import strategies

from tests import tiny
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.decoder.token_reducer import KEEP_ALL, TokenReducer
from visor_jax.token_reduction.fastv import FastV
from visor_jax.token_reduction.pyramid_drop import PyramidDrop
from visor_jax.token_reduction.registry import (
    REDUCERS,
    fitted,
    name_of,
    parse,
    reducer_of,
)
from visor_jax.token_reduction.setting_values import (
    read_value,
    settings_of,
    shown_value,
)
from visor_jax.token_reduction.trained import to_train_with

SHARES = strategies.floats(min_value=1e-9, max_value=1)
BUDGETS = strategies.sampled_from(["own", "average", "llm_flops"]).flatmap(
    lambda name: strategies.tuples(
        strategies.just(name),
        SHARES if name == "llm_flops" else strategies.floats(1e-3, 1e20),
    )
)


@strategies.composite
def methods(draw):
    name, value = draw(BUDGETS)
    budget = {} if name == "own" else {name: value}
    own = name == "own" and draw(strategies.booleans())
    layers = draw(strategies.none() | strategies.sets(strategies.integers(1, 99)))
    layers = tuple(sorted(layers)) if layers else None
    count = 3 if layers is None else len(layers)
    kind = draw(strategies.sampled_from(sorted(METHODS)))
    return METHODS[kind](draw, layers, count, own, budget)


def of_fastv(draw, layers, count, own, budget):
    keep = {"keep": draw(SHARES)} if own else {}
    return FastV(layer=draw(strategies.integers(1, 99)), **keep, **budget)


def of_pyramid(draw, layers, count, own, budget):
    if own or (count != 3 and not budget):
        shares = draw(strategies.lists(SHARES, min_size=count, max_size=count))
        budget = {"ratios": tuple(sorted(shares, reverse=True))}
    return PyramidDrop(layers=layers, **budget)


def of_sparse(draw, layers, count, own, budget):
    method = REDUCERS["sparsevlm"].method
    if own or count != 3:
        numbers = strategies.lists(
            strategies.integers(1, 999), min_size=count, max_size=count
        )
        budget = {"keep": tuple(draw(numbers))}
    return method(layers=layers, **budget)


METHODS = {"fastv": of_fastv, "pyramiddrop": of_pyramid, "sparsevlm": of_sparse}


@hypothesis.settings(max_examples=200)
@hypothesis.given(methods())
def test_a_name_stands_for_one_method(method):
    assert parse(name_of(method)) == method
    assert hash(parse(name_of(method))) == hash(method)


def test_names_are_as_short_as_they_can_be():
    assert name_of(parse("fastv:keep=0.250,layer=2")) == "fastv:keep=0.25"
    assert name_of(FastV()) == "fastv"
    assert parse(" none ") == reducer_of(None) == KEEP_ALL
    assert name_of(KEEP_ALL) == "none"
    assert reducer_of(FastV()) == reducer_of("fastv") == FastV()


@pytest.mark.parametrize("name", REDUCERS)
def test_every_method_is_a_reducer_with_defaults(name):
    config = tiny.VISOR.replace(plan=LayerPlan.dense(24))
    if REDUCERS[name].is_trained:
        config = to_train_with(config, name)
    method = fitted(parse(name), config)
    assert isinstance(method, TokenReducer)
    # M3 keeps everything at its largest scale.
    assert (method.image_lengths(576, 24)[-1] < 576) == (name != "m3")
    assert parse(name_of(method)) == method
    assert REDUCERS[name].source


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("fastvl", r"Unknown .*'fastvl' \(nearest: fastv.*there are none, fastv, "),
        ("", "Unknown token reduction ''"),
        ("none:keep=1", "Unknown"),
        ("fastv:kep=1", r"no setting 'kep' \(nearest: keep\): there are layer, keep"),
        ("fastv:network=1", "no setting 'network'"),
        ("fastv:stages=1", "no setting 'stages'"),
        ("fastv:", "no setting behind the colon"),
        ("fastv:keep", "'keep' is not of the form"),
        ("fastv:keep=1,keep=1", "says keep twice"),
        ("fastv:layer=2.5", "layer=2.5 must be a whole number"),
        ("fastv:keep=nan", "keep=nan must be a number"),
        ("fastv:keep=1.5", "keep=1.5 must be above 0 and at most 1"),
        ("fastv:layer=0", "layer=0 must be at least 1"),
        ("fastv:keep=0.5,average=9", "keep and average each say how many"),
        ("fastv:average=9,llm_flops=0.5", "average and llm_flops each say"),
        ("fastv:average=0", "average=0.0 must be above 0"),
        ("sparsevlm:llm_flops=30", "llm_flops=30.0 must be a share"),
        ("pyramiddrop:layers=8+4+2", r"layers=8\+4\+2 must be ascending"),
        ("pyramiddrop:layers=8+", r"layers=8\+ must be numbers with \+"),
        ("pyramiddrop:ratios=0.1+0.2+0.3", r"ratios=0.1\+0.2\+0.3 must be shares"),
        ("pyramiddrop:layers=8+9", "must be as many"),
        ("sparsevlm:keep=3+0+1", r"keep=3\+0\+1: each at least 1"),
        ("sparsevlm:keep=3", "must be as many"),
    ],
)
def test_what_is_wrong_is_named_with_what_there_is(spec, said):
    with pytest.raises(ValueError, match=said):
        parse(spec)


def test_what_is_no_method_and_what_a_network_lacks_is_refused():
    with pytest.raises(ValueError, match="reduce=3 is no token reduction"):
        reducer_of(3)
    with pytest.raises(ValueError, match=r"fastv:layer=6: .* layer 6, but .* 0 to 5"):
        fitted(FastV(layer=6), tiny.VISOR)
    with pytest.raises(ValueError, match="quarters of a depth"):
        PyramidDrop().image_lengths(9, 4)


@dataclasses.dataclass(frozen=True)
class Other:
    """A method as others write them."""

    share: float
    count: int = 3
    fresh: bool = True
    word: str = "cls"
    score: typing.Literal["cls", "received"] = "cls"
    parts: tuple[int, ...] = (1, 2)
    limit: int | None = None
    position_rule: object = None
    reads_text: bool = False
    stages: tuple[int, ...] = (0,)


def test_plain_fields_are_settings_of_their_types():
    known = {setting.name: setting for setting in settings_of(Other)}
    names = ["share", "count", "fresh", "word", "score", "parts", "limit"]
    assert list(known) == names
    values = (0.5, 7, False, "a", "received", (4,), None)
    for name, value in zip(names, values, strict=True):
        assert read_value(known[name], shown_value(value)) == value
    assert not known["share"].is_default(3.0)
    assert known["limit"].is_default(None)
    for name, text in {"fresh": "yes", "score": "all", "word": ""}.items():
        with pytest.raises(ValueError, match=f"{name}={text} must be"):
            read_value(known[name], text)
