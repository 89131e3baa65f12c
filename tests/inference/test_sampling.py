import jax
import numpy as np
import pytest

from tests import tolerances
from tests.parity import sampling_reference
from visor_jax.data.prompts.sampling import GREEDY, Sampling
from visor_jax.inference.sampling import (
    RowSampling,
    filtered,
    penalised,
    sample_token,
)

LOGITS = np.random.default_rng(0).normal(scale=2, size=(6, 40)).astype(np.float32)


def rows_of(logits, **settings):
    """Returns the settings for every row."""
    return arrays([Sampling(**settings)] * len(logits))


def arrays(settings):
    return jax.tree.map(jax.numpy.asarray, RowSampling.of(settings))


def _oracle(logits, *, temperature, top_k=None, top_p=None):
    """The filters row by row, in the order and with the ties of `transformers`."""
    result = []
    for row in logits.astype(np.float64) / temperature:
        row = row.copy()
        if top_k is not None:
            row[row < np.sort(row)[-min(top_k, len(row))]] = -np.inf
        if top_p is not None and top_p < 1:
            order = np.argsort(row, kind="stable")
            weights = np.exp(row - row.max())
            summed = np.cumsum(weights[order] / weights.sum())
            cut = order[:-1][summed[:-1] <= 1 - top_p]
            row[cut] = -np.inf
        result.append(row)
    return np.stack(result)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.3},
        {"temperature": 1.7, "top_k": 5},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "top_k": 400},
        {"temperature": 1.0, "top_p": 0.6},
        {"temperature": 2.5, "top_p": 0.9},
        {"temperature": 1.0, "top_p": 1e-6},
        {"temperature": 1.0, "top_p": 1.0},
        {"temperature": 0.7, "top_k": 8, "top_p": 0.5},
        {"temperature": 3.0, "top_k": 3, "top_p": 0.99},
    ],
)
def test_filters_equal_the_oracle(settings):
    found = filtered(jax.numpy.asarray(LOGITS), rows_of(LOGITS, **settings))
    expected = _oracle(LOGITS, **settings)
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    np.testing.assert_allclose(found, expected, **tolerances.REORDERED)


def processed(settings):
    """Returns our logits for the tokens and logits of `sampling_reference`."""
    tokens, logits = sampling_reference.inputs()
    sampling = rows_of(logits, **settings)
    used = np.stack([np.isin(np.arange(logits.shape[1]), row) for row in tokens])
    logits, used = map(jax.numpy.asarray, (logits, used))
    lowered = penalised(logits, used, sampling.repetition_penalty)
    return np.asarray(filtered(lowered, sampling))


def test_logits_are_processed_as_transformers_did():
    with np.load(sampling_reference.GOLDEN) as copies:
        expected = [copies[name] for name in copies.files]
    pairs = zip(sampling_reference.SETTINGS, expected, strict=True)
    for settings, logits in pairs:
        found = processed(settings)
        np.testing.assert_array_equal(np.isinf(found), np.isinf(logits))
        np.testing.assert_allclose(found, logits, **tolerances.PARITY)


def test_the_penalty_comes_before_the_temperature_and_when_greedy():
    logits = jax.numpy.array([[2.0, 1.9, -1.0]])
    used = jax.numpy.array([[True, False, False]])
    keys = jax.random.split(jax.random.key(0), 1)
    greedy = rows_of(logits, repetition_penalty=1.5)
    assert sample_token(logits, greedy, keys, used).tolist() == [1]
    assert sample_token(logits).tolist() == [0]
    cold = rows_of(logits, temperature=1e-3, repetition_penalty=1.5)
    assert sample_token(logits, cold, keys, used).tolist() == [1]


def test_top_p_is_the_drawn_example():
    logits = jax.numpy.log(jax.numpy.array([[0.5, 0.1, 0.15, 0.25]]))
    kept = filtered(logits, rows_of(logits, temperature=1.0, top_p=0.7))
    assert np.isfinite(kept).tolist() == [[True, False, False, True]]


def test_ties_at_the_edge_of_top_k_stay():
    logits = jax.numpy.array([[3.0, 1.0, 1.0, 0.0]])
    kept = filtered(logits, rows_of(logits, temperature=1.0, top_k=2))
    assert np.isfinite(kept).tolist() == [[True, True, True, False]]


def test_greedy_takes_the_likeliest():
    found = sample_token(jax.numpy.asarray(LOGITS))
    np.testing.assert_array_equal(found, LOGITS.argmax(axis=1))


def test_draws_follow_the_filtered_distribution():
    rows = 20000
    logits = jax.numpy.broadcast_to(LOGITS[0, :8], (rows, 8))
    settings = {"temperature": 1.5, "top_k": 6, "top_p": 0.95}
    keys = jax.random.split(jax.random.key(1), rows)
    used = jax.numpy.zeros(logits.shape, bool)
    drawn = np.asarray(sample_token(logits, rows_of(logits, **settings), keys, used))
    weights = np.exp(_oracle(LOGITS[:1, :8], **settings)[0])
    expected = weights / weights.sum()
    found = np.bincount(drawn, minlength=8) / rows
    assert not found[expected == 0].any()
    # Five standard deviations.
    bound = 5 * np.sqrt(expected * (1 - expected) / rows)
    assert (np.abs(found - expected) <= bound).all()


MIXED = (
    Sampling(temperature=2.0, top_p=0.9),
    GREEDY,
    Sampling(repetition_penalty=1.5),
    Sampling(temperature=2.0, top_k=3),
    Sampling(temperature=1.5, top_k=30, top_p=0.95, repetition_penalty=0.7),
    Sampling(temperature=3.0),
)


@pytest.mark.parametrize("settings", [MIXED, MIXED[1:4], MIXED[1:3], MIXED[:1] * 6])
def test_a_draw_does_not_depend_on_other_rows(settings):
    """...nor on how their tokens are chosen."""
    logits = jax.numpy.asarray(LOGITS[: len(settings)])
    keys = jax.random.split(jax.random.key(2), len(logits))
    used = np.random.default_rng(1).random(logits.shape) < 0.3
    used = jax.numpy.asarray(used)
    together = sample_token(logits, arrays(settings), keys, used)
    for i, sampling in enumerate(settings):
        row = slice(i, i + 1)
        one = arrays([sampling])
        alone = sample_token(logits[row], one, keys[row], used[row])
        assert together[i] == alone[0]
    again = sample_token(logits, arrays(settings), keys, used)
    assert together.tolist() == again.tolist()


def test_few_likeliest_tokens_are_those_of_sorting_all():
    """...where `top_k` takes the short way, and where it cannot."""
    logits = np.random.default_rng(4).normal(size=(3, 400)).astype(np.float32)
    logits[:, 100:140] = logits[:, :40]
    for counts in ((1, 5, 64), (64, 65, 399), (3, 400, 401)):
        settings = [Sampling(temperature=1.0, top_k=count) for count in counts]
        found = filtered(jax.numpy.asarray(logits), arrays(settings))
        for row, count in enumerate(counts):
            kept = _oracle(logits[row : row + 1], temperature=1.0, top_k=count)
            np.testing.assert_array_equal(np.isinf(found[row]), np.isinf(kept[0]))


def primitives_outside_branches(jaxpr):
    """Returns what a program runs whatever its conditions say."""
    found = set()
    for equation in jaxpr.eqns:
        found.add(equation.primitive.name)
        if equation.primitive.name == "cond":
            continue
        for inner in jax.tree.leaves(
            [*equation.params.values()],
            is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"),
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found |= primitives_outside_branches(inner)
    return found


def test_nothing_is_sorted_or_drawn_where_nobody_asks():
    logits = jax.numpy.asarray(LOGITS)
    keys = jax.random.split(jax.random.key(2), len(LOGITS))
    used = jax.numpy.zeros(logits.shape, bool)
    arguments = (logits, arrays([GREEDY] * len(LOGITS)), keys, used)
    always = primitives_outside_branches(jax.make_jaxpr(sample_token)(*arguments).jaxpr)
    assert "argmax" in always
    assert (
        not {"sort", "top_k", "random_bits", "threefry2x32", "cumsum", "div"} & always
    )
    assert "sort" in str(jax.make_jaxpr(sample_token)(*arguments))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"temperature": 1.0, "top_k": 0}, "top_k=0"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p=0.0"),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p=1.1"),
        ({"top_k": 5}, "need a temperature above 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty=nan"),
        ({"also_used": (3, -1)}, r"also_used=\(3, -1\)"),
        ({"temperature": 1.0, "top_k": -1, "top_p": 2.0}, "top_k=-1.*top_p=2.0"),
    ],
)
def test_impossible_settings_are_named(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        Sampling(**settings)
