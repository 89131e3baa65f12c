"""The policy: a small network that gives every budget of a set a logit.

It stands beside the frozen backbone and reads its features (`policy.features`). What is
chosen from the logits is `policy.choose`; where they come from,
`training.objectives.policy_step`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax.batch import Batch
from visor_jax.models.vlm import VLM, run_trunk
from visor_jax.policy.features import PolicyFeatures, policy_features, unit_rms
from visor_jax.sharding.programs import mesh_jit

Params = Any

# The subtree of a checkpoint's parameters that holds the policy's.
PARAMS = "policy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Sizes of the policy.

    num_budgets: classes; the index of a class is that of its budget in the set.
    hidden_widths: of the hidden layers, first layer first; () for a linear policy.
    routing_token, image_features: which of the features it reads, at least one.
    """

    num_budgets: int
    hidden_widths: tuple[int, ...] = (128,)
    routing_token: bool = True
    image_features: bool = True

    def __post_init__(self) -> None:
        wrong = [width for width in self.hidden_widths if width < 1]
        if self.num_budgets < 1 or wrong:
            raise ValueError(
                f"A policy needs num_budgets={self.num_budgets} and hidden_widths="
                f"{self.hidden_widths} of at least 1."
            )
        if not (self.routing_token or self.image_features):
            raise ValueError(
                "A policy that reads nothing cannot choose: switch on routing_token, "
                "image_features or both."
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values from which `from_dict` rebuilds the config."""
        fields = dataclasses.asdict(self)
        return {**fields, "hidden_widths": list(self.hidden_widths)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "PolicyConfig":
        """Returns the config that `to_dict` described. Raises ValueError otherwise."""
        try:
            return cls(**{**fields, "hidden_widths": tuple(fields["hidden_widths"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"This is not a PolicyConfig: {error}.") from error


class PolicyNetwork(nn.Module):
    """Layers with GELU between them, in float32 whatever the backbone computes in."""

    config: PolicyConfig

    @nn.compact
    def __call__(self, features: PolicyFeatures) -> Float[Array, "B R budgets"]:
        """Returns logits over the budgets.

        They do not depend on how large the features are, and begin alike for all.
        """
        chosen = []
        if self.config.routing_token:
            chosen.append(unit_rms(features.routing))
        if self.config.image_features:
            chosen.append(unit_rms(features.image))
        x = jnp.concatenate(chosen, axis=-1)
        for i, width in enumerate(self.config.hidden_widths):
            x = jax.nn.gelu(nn.Dense(width, name=f"hidden_{i}")(x))
        zeros = nn.initializers.zeros
        return nn.Dense(self.config.num_budgets, kernel_init=zeros, name="logits")(x)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Policy:
    """A trained policy. costs: relative ones of the budgets, in class order."""

    config: PolicyConfig
    params: Params
    costs: tuple[float, ...]

    @classmethod
    def of(
        cls, described: Mapping[str, Any], params: Params, budgets: Sequence[str]
    ) -> "Policy":
        """Returns the policy that a checkpoint's metadata describes.

        Args:
          budgets: names of its classes.
        """
        return cls(
            config=PolicyConfig.from_dict(described["config"]),
            params=params,
            costs=tuple(described["costs"][name] for name in budgets),
        )


def policy_logits(
    config: PolicyConfig, params: Params, features: PolicyFeatures
) -> Float[Array, "B R budgets"]:
    """Returns a policy's logits over its budgets; a pure function of the arrays."""
    return PolicyNetwork(config).apply({"params": params}, features)


@mesh_jit(static_argnames=("model", "config"))
def prompt_logits(
    params: Params,
    policy: Params,
    batch: Batch,
    indices: Int[Array, "B R"] | None = None,
    *,
    model: VLM,
    config: PolicyConfig,
) -> Float[Array, "B R budgets"]:
    """Returns a policy's logits for prompts, read up to where budgets part.

    Args:
      params, policy: of the network and of its policy.
      indices: see `policy_features`.
    """
    trunk = model.apply({"params": params}, batch, method=run_trunk)
    return policy_logits(config, policy, policy_features(trunk, indices))


def new_policy(config: PolicyConfig, width: int, key: Array) -> Params:
    """Returns new parameters of a policy that reads features of this width."""
    nothing = jnp.zeros((1, 1, width), jnp.float32)
    features = PolicyFeatures(nothing, nothing)
    return PolicyNetwork(config).init(key, features)["params"]
