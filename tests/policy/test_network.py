"""The policy network: what it reads, how it begins, how it is described."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tolerances import EXACT, REORDERED
from visor_jax.policy.features import PolicyFeatures
from visor_jax.policy.network import PolicyConfig, new_policy, policy_logits

WIDTH = 8


def features(seed: int) -> PolicyFeatures:
    rng = np.random.default_rng(seed)
    return PolicyFeatures(
        *(jnp.asarray(rng.normal(size=(3, 2, WIDTH)), jnp.float32) for _ in range(2))
    )


def trained(config: PolicyConfig):
    """Returns parameters of which none is zero."""
    params = new_policy(config, WIDTH, jax.random.key(0))
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params
    )


def logits(config: PolicyConfig, given: PolicyFeatures, params=None):
    params = trained(config) if params is None else params
    return np.asarray(policy_logits(config, params, given))


@pytest.mark.parametrize("hidden_widths", [(), (16,), (16, 4)])
def test_every_prompt_gets_a_logit_per_budget(hidden_widths):
    config = PolicyConfig(num_budgets=5, hidden_widths=hidden_widths)
    assert logits(config, features(0)).shape == (3, 2, 5)


def test_a_new_policy_prefers_nothing():
    config = PolicyConfig(num_budgets=5)
    new = new_policy(config, WIDTH, jax.random.key(3))
    np.testing.assert_allclose(logits(config, features(0), new), 0.0, **EXACT)


def test_the_size_of_the_features_does_not_matter():
    config, given = PolicyConfig(num_budgets=4), features(0)
    scaled = PolicyFeatures(given.routing * 1000, given.image * 0.01)
    np.testing.assert_allclose(
        logits(config, scaled), logits(config, given), **REORDERED
    )


def test_no_image_is_no_problem():
    config, given = PolicyConfig(num_budgets=4), features(0)
    found = logits(config, given.replace(image=jnp.zeros_like(given.image)))
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("switch", "unread"), [("routing_token", "routing"), ("image_features", "image")]
)
def test_what_is_switched_off_is_not_read(switch, unread):
    config = PolicyConfig(num_budgets=4, **{switch: False})
    given, other = features(0), features(1)
    read = {"routing": "image", "image": "routing"}[unread]
    before = logits(config, given)
    changed = given.replace(**{unread: getattr(other, unread)})
    np.testing.assert_allclose(logits(config, changed), before, **EXACT)
    changed = given.replace(**{read: getattr(other, read)})
    assert np.abs(logits(config, changed) - before).max() > 0.1


def test_a_config_survives_json_and_refuses_nonsense():
    config = PolicyConfig(num_budgets=3, hidden_widths=(4, 5), image_features=False)
    assert PolicyConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="not a PolicyConfig"):
        PolicyConfig.from_dict({"num_budgets": 3})
    with pytest.raises(ValueError, match="reads nothing"):
        PolicyConfig(num_budgets=3, routing_token=False, image_features=False)
    with pytest.raises(ValueError, match="num_budgets=0"):
        PolicyConfig(num_budgets=0)
