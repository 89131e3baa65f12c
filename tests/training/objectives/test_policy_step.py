"""Policy training: gradients against finite differences, and what stays as it was."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from tests.tolerances import FINITE_DIFFERENCE, FOUR_ERRORS, REORDERED
from tests.training.objectives.finite_differences import slope
from visor_jax.models.vlm import VLM, run_rest, run_trunk
from visor_jax.policy.network import PARAMS, PolicyConfig, new_policy
from visor_jax.training.objectives.policy_objective import PolicyObjective
from visor_jax.training.objectives.policy_step import (
    FROZEN,
    PolicySums,
    ScoredBatch,
    blended_measure,
    make_policy_step,
    straight_through,
    summary,
    table_measure,
)
from visor_jax.training.state import TrainState

CONFIG = tiny.VISOR
MODEL, BACKBONE = VLM(CONFIG), tiny.params_of(CONFIG)["params"]
BUDGETS = tiny.every_budget(CONFIG)
COSTS = np.array([0.2, 0.5, 0.6, 1.0])
WIDTH = CONFIG.decoder.width
POLICY = PolicyConfig(num_budgets=4, hidden_widths=(8,))
# One question per row; its last three tokens are supervised.
SAMPLES = [tiny.Sample(image=n, questions=(5,)) for n in (12, 7, 9, 4)]


def questions():
    batch = tiny.random_batch(CONFIG, SAMPLES)
    loss_mask = np.zeros_like(batch.loss_mask)
    loss_mask[:, 2:5] = True
    return tiny.on_device(batch.replace(loss_mask=loss_mask))


def table(seed: int = 0, size: int = 64) -> ScoredBatch:
    """Returns samples in which dearer budgets are better by different amounts."""
    rng = np.random.default_rng(seed)
    gain = rng.random(size)
    losses = (0.8 * (1 - np.outer(gain, COSTS))).astype(np.float32)
    routing = rng.normal(size=(size, WIDTH)).astype(np.float32)
    routing[:, 0] = 6 * (gain - 0.5)
    return ScoredBatch(
        routing=jnp.asarray(routing),
        image=jnp.asarray(rng.normal(size=(size, WIDTH)), jnp.float32),
        losses=jnp.asarray(losses),
        correct=jnp.asarray(losses < 0.4),
        labels=jnp.asarray(rng.integers(0, 4, size), jnp.int32),
    )


def trained_policy():
    new = new_policy(POLICY, WIDTH, jax.random.key(0))
    rng = np.random.default_rng(5)
    return jax.tree.map(
        lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), jnp.float32), new
    )


@functools.cache
def true_losses() -> np.ndarray:
    """Returns the loss of every row at every budget, each by its static program."""
    batch, columns = questions(), []
    for budget in BUDGETS:
        gates = budget.gates(CONFIG.plan)
        logits = tiny.forward_static(
            {"params": BACKBONE}, batch, config=CONFIG, gates=gates
        ).logits
        log_probs = jax.nn.log_softmax(logits)
        picked = jnp.take_along_axis(log_probs, batch.targets[..., None], axis=-1)
        columns.append(-jnp.sum(picked[..., 0] * batch.loss_mask, axis=1))
    return np.stack([np.asarray(c) for c in columns], axis=1)


@jax.jit
def loss_of_gates(gates):
    """Returns the summed loss of the rows with blended gates (B, S)."""
    batch = questions()
    trunk = MODEL.apply({"params": BACKBONE}, batch, method=run_trunk)

    def logits_of_text(model):
        return model.logits(run_rest(model, trunk, gates).text)

    logits = MODEL.apply({"params": BACKBONE}, method=logits_of_text)
    log_probs = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_probs, batch.targets[..., None], axis=-1)
    return -jnp.sum(picked[..., 0] * batch.loss_mask, axis=1)


def test_sampled_gradients_tend_to_those_of_the_expected_loss():
    losses = jnp.asarray(true_losses()[0])
    logits = np.array([0.2, -0.3, 0.5, 0.1])

    def expected_loss(x):
        powers = np.exp(x - x.max())
        return powers / powers.sum() @ np.asarray(losses, np.float64)

    def sampled(x, key):
        return straight_through(x[None], key, 0.05)[0] @ losses

    keys = jax.random.split(jax.random.key(0), 100_000)
    each = np.asarray(
        jax.jit(jax.vmap(jax.grad(sampled), (None, 0)))(jnp.asarray(logits), keys)
    )
    error = each.std(axis=0) / np.sqrt(len(keys))
    wanted = slope(expected_loss, logits, 1e-5)
    assert np.abs(wanted).max() > 20 * error.max()
    np.testing.assert_array_less(
        np.abs(each.mean(axis=0) - wanted), FOUR_ERRORS * error + 1e-3
    )


def test_the_expected_loss_has_the_gradient_of_its_finite_differences():
    params, batch = trained_policy(), table()
    measure = table_measure(POLICY, "expected_loss")

    @jax.jit
    def loss(bias):
        logits = {**params["logits"], "bias": bias}
        changed = {**params, "logits": logits}
        return measure(changed, None, batch, jax.random.key(0), 1.0).task.mean()

    bias = np.asarray(params["logits"]["bias"])
    np.testing.assert_allclose(
        jax.grad(loss)(bias), slope(loss, bias, 1e-2), **FINITE_DIFFERENCE
    )


@pytest.mark.parametrize("kind", ["straight_through", "expected_loss", "pseudo_labels"])
def test_accuracy_and_cost_are_of_the_same_choice(kind):
    params, batch = trained_policy(), table()
    # Whose probabilities are spread out, so that samples and the best budget differ.
    params["logits"] = jax.tree.map(lambda x: 0.05 * x, params["logits"])
    step, state = build(table_measure(POLICY, kind), kind=kind)
    state = state.replace(params={**state.params, PARAMS: params})
    values = summary(step(state, batch).sums, BUDGETS.names)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), 0)
    found = table_measure(POLICY, kind)(params, None, batch, key, 1.0)
    weights, correct = np.asarray(found.choice), np.asarray(batch.correct)
    if kind == "straight_through":
        taken = weights.argmax(axis=1)
        assert (taken != np.asarray(found.logits).argmax(axis=1)).mean() > 0.3
        right, cost = correct[np.arange(len(taken)), taken], COSTS[taken]
    else:
        powers = np.exp(np.asarray(found.logits, np.float64))
        chances = powers / powers.sum(axis=1, keepdims=True)
        right, cost = (chances * correct).sum(axis=1), chances @ COSTS
    np.testing.assert_allclose(values["accuracy"], right.mean(), **REORDERED)
    np.testing.assert_allclose(values["cost"], cost.mean(), **REORDERED)


def test_shut_and_open_blended_gates_are_the_budgets():
    gates = BUDGETS.gate_table().astype(np.float32)
    expected = true_losses()[np.arange(4), np.arange(4)]
    # A different budget in every row of one batch.
    found = loss_of_gates(jnp.asarray(gates))
    np.testing.assert_allclose(found, expected, **REORDERED)


def test_the_blended_gradient_runs_through_gates_and_choice():
    params, batch = trained_policy(), questions()
    measure = blended_measure(MODEL, POLICY, BUDGETS, "log_likelihood")
    key, temperature = jax.random.key(1), 0.8

    def outcome(params):
        return measure(params, BACKBONE, batch, key, temperature)

    def task(bias):
        logits = {**params["logits"], "bias": bias}
        found = outcome({**params, "logits": logits})
        return found.task.sum(), found

    bias = params["logits"]["bias"]
    grad, found = jax.jit(jax.grad(task, has_aux=True))(bias)
    gate_table = BUDGETS.gate_table().astype(np.float32)
    gates = np.asarray(found.choice) @ gate_table
    np.testing.assert_allclose(found.task, loss_of_gates(gates), **REORDERED)
    # Rows do not see each other: one difference per layer serves all of them.
    by_gate = np.zeros_like(gates)
    for layer in range(gates.shape[1]):
        move = 0.01 * np.eye(gates.shape[1], dtype=np.float32)[layer]
        up, down = loss_of_gates(gates + move), loss_of_gates(gates - move)
        by_gate[:, layer] = (np.asarray(up) - np.asarray(down)) / 0.02
    logits = np.asarray(found.logits, np.float64)
    noise = np.asarray(jax.random.gumbel(key, logits.shape))

    def relaxed(shift):
        powers = np.exp((logits + shift + noise) / temperature)
        return np.sum(powers / powers.sum(axis=1, keepdims=True) @ gate_table * by_gate)

    expected = slope(relaxed, np.zeros(4), 1e-5)
    np.testing.assert_allclose(grad, expected, **FINITE_DIFFERENCE)


# Table objectives make nothing of the backbone, so that a bit of it will do.
PART = {"image_newline": BACKBONE["image_newline"]}


def build(measure, *, backbone=PART, steps: int = 100, rate: float = 0.05, **objective):
    """Returns (step, state) of a run with this measure."""
    optimizer = optax.adam(rate)
    step = make_policy_step(
        measure, optimizer, PolicyObjective(**objective), COSTS, steps
    )
    policy = new_policy(POLICY, WIDTH, jax.random.key(0))
    state = TrainState.create(
        {**backbone, PARAMS: policy}, optimizer, FROZEN, seed=0, num_budgets=4
    )
    return jax.jit(step), state.replace(sums=PolicySums.zeros(4))


@pytest.mark.parametrize("kind", ["straight_through_blended", "pseudo_labels"])
def test_the_backbone_stays_bit_identical_and_the_policy_learns(kind):
    if kind == "straight_through_blended":
        measure = blended_measure(MODEL, POLICY, BUDGETS, "likelihood")
        batch = questions()
    else:
        measure, batch = table_measure(POLICY, kind), table()
    step, state = build(measure, backbone=BACKBONE, kind=kind)
    after = step(step(state, batch), batch)
    for name, part in BACKBONE.items():
        jax.tree.map(np.testing.assert_array_equal, after.params[name], part)
    moved = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), after.params[PARAMS], state.params[PARAMS]
    )
    assert all(jax.tree.leaves(moved))
    paths = [
        jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(state.opt_state)
    ]
    assert not [p for p in paths if "language_model" in p or "vision" in p]
    values = summary(after.sums, BUDGETS.names)
    shares = [values[f"share/{name}"] for name in BUDGETS.names]
    np.testing.assert_allclose(sum(shares), 1, **REORDERED)
    np.testing.assert_allclose(values["cost"], shares @ COSTS, **REORDERED)
    assert after.step == 2


def test_the_cost_weight_moves_the_mean_cost():
    batch, means, kind = table(), [], "straight_through"
    for weight in (0.1, 0.4, 1.2):
        step, state = build(table_measure(POLICY, kind), kind=kind, cost_weight=weight)
        for _ in range(100):
            state = step(state, batch)
        measure = table_measure(POLICY, "expected_loss")
        found = measure(state.params[PARAMS], None, batch, jax.random.key(0), 1.0)
        means.append(float(found.choice.mean(axis=0) @ COSTS))
    assert means[0] > means[1] + 0.05 > means[2] + 0.1


def test_with_entropy_the_logits_tell_loss_and_cost():
    batch = table()
    losses = np.array([0.8, 0.6, 0.3, 0.1], np.float32)
    batch = batch.replace(losses=jnp.tile(losses, (64, 1)))
    weights = {"cost_weight": 0.3, "entropy_weight": 0.2}
    step, state = build(
        table_measure(POLICY, "expected_loss"), kind="expected_loss", **weights
    )
    for _ in range(300):
        state = step(state, batch)
    measure = table_measure(POLICY, "expected_loss")
    found = measure(state.params[PARAMS], None, batch, jax.random.key(0), 1.0)
    # The same for every sample, and known: a minimum of the loss, not of a network.
    powers = np.exp(-(losses + 0.3 * COSTS) / 0.2)
    np.testing.assert_allclose(
        found.choice.mean(axis=0), powers / powers.sum(), **FINITE_DIFFERENCE
    )
