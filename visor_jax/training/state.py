"""Everything that a training run carries from one step to the next."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt32

from visor_jax.sharding.mesh import AnyMesh
from visor_jax.sharding.param_rules import param_shardings, replicated
from visor_jax.training.optimizer import split_frozen

Tree = Any


@flax.struct.dataclass
class BudgetSums:
    """What happened at each budget since the last log line; every field is (budgets,).

    Part of the state, so that a resumed run logs the same averages.
    """

    steps: Float[Array, "budgets"]
    loss: Float[Array, "budgets"]
    hits: Float[Array, "budgets"]
    tokens: Float[Array, "budgets"]
    reading_loss: Float[Array, "budgets"]
    grad_norm: Float[Array, "budgets"]

    @classmethod
    def zeros(cls, num_budgets: int) -> "BudgetSums":
        names = cls.__dataclass_fields__
        # One buffer each: the state is donated, and a buffer is donated only once.
        return cls(**{name: jnp.zeros(num_budgets, jnp.float32) for name in names})

    def add(self, budget: Int[Array, ""], **values: Float[Array, ""]) -> "BudgetSums":
        """Returns the sums after one more step at this budget."""
        return self.replace(
            **{k: getattr(self, k).at[budget].add(v) for k, v in values.items()}
        )


@flax.struct.dataclass
class TrainState:
    """step: steps done. params: all parameters. opt_state: of the trainable ones.

    key: data of the run's base key; step n uses fold_in(key, n).
    sums: what happened since the last log line, `BudgetSums` or those of another task.
    """

    step: Int[Array, ""]
    params: Tree
    opt_state: Tree
    key: UInt32[Array, "words"]
    sums: Tree

    @classmethod
    def create(
        cls,
        params: Tree,
        optimizer: optax.GradientTransformation,
        frozen: tuple[str, ...],
        *,
        seed: int,
        num_budgets: int,
    ) -> "TrainState":
        """Returns the state before the first step."""
        trainable, _ = split_frozen(params, frozen)
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(trainable),
            key=jax.random.key_data(jax.random.key(seed)),
            sums=BudgetSums.zeros(num_budgets),
        )

    def all_but_params(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps apart from the parameters."""
        return {
            "step": self.step,
            "opt_state": self.opt_state,
            "key": self.key,
            "sums": self.sums,
        }


def state_shardings(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    frozen: tuple[str, ...],
    mesh: AnyMesh,
) -> TrainState:
    """Returns a tree of shardings like `state` (arrays or abstract).

    The optimiser's moments lie where their parameters lie; the rest is replicated.
    """
    whole = replicated(mesh)
    params = param_shardings(state.params, mesh)
    trainable, _ = split_frozen(params, frozen)
    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        state.opt_state,
        trainable,
        transform_non_params=lambda _: whole,
    )
    return TrainState(
        step=whole,
        params=params,
        opt_state=opt_state,
        key=whole,
        sums=jax.tree.map(lambda _: whole, state.sums),
    )
