"""Everything that a training run carries from one step to the next."""

from typing import Any, ClassVar

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

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
class SkippedSteps:
    """The steps of the whole run that changed nothing (see `training.skipped_steps`).

    count: how many. last: the newest of them, newest first, 0 where there is none;
    steps count from 1, as in the metrics.
    """

    KEPT: ClassVar[int] = 64

    count: Int[Array, ""]
    last: Int[Array, "kept"]

    @classmethod
    def none(cls) -> "SkippedSteps":
        return cls(jnp.zeros((), jnp.int32), jnp.zeros(cls.KEPT, jnp.int32))

    def add(self, step: Int[Array, ""], is_bad: Bool[Array, ""]) -> "SkippedSteps":
        """Returns the record after `step` (from 1), unchanged if it was not bad."""
        longer = jnp.roll(self.last, 1).at[0].set(step)
        return SkippedSteps(self.count + is_bad, jnp.where(is_bad, longer, self.last))


@flax.struct.dataclass
class TrainState:
    """step: steps done. params: all parameters. opt_state: of the trainable ones.

    key: data of the run's base key; step n uses fold_in(key, n).
    sums: what happened since the last log line, `BudgetSums` or those of another task.
    skipped: steps among those done whose update was not taken.
    """

    step: Int[Array, ""]
    params: Tree
    opt_state: Tree
    key: UInt32[Array, "words"]
    sums: Tree
    skipped: SkippedSteps

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
            skipped=SkippedSteps.none(),
        )

    def all_but_params(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps apart from the parameters."""
        return {
            "step": self.step,
            "opt_state": self.opt_state,
            "key": self.key,
            "sums": self.sums,
            "skipped": self.skipped,
        }


def state_shardings(
    state: TrainState, frozen: tuple[str, ...], mesh: AnyMesh
) -> TrainState:
    """Returns a tree of shardings like `state` (arrays or abstract).

    The optimiser's moments lie where their parameters lie; the rest is replicated.
    """
    whole = replicated(mesh)
    params = param_shardings(state.params, mesh)
    trainable, _ = split_frozen(params, frozen)
    places = flax.traverse_util.flatten_dict(trainable, sep="/")

    def of_part(part: Any) -> Any:
        """Returns shardings of what goes by parameters' names, or of a lone leaf."""
        if not isinstance(part, dict):
            return whole
        flat = flax.traverse_util.flatten_dict(part, sep="/")
        found = {path: places.get(path, whole) for path in flat}
        return flax.traverse_util.unflatten_dict(found, sep="/")

    opt_state = jax.tree.map(
        of_part, state.opt_state, is_leaf=lambda part: isinstance(part, dict)
    )
    return TrainState(
        step=whole,
        params=params,
        opt_state=opt_state,
        key=whole,
        sums=jax.tree.map(lambda _: whole, state.sums),
        skipped=jax.tree.map(lambda _: whole, state.skipped),
    )
