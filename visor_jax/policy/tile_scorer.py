"""Where to look: a small network that gives every tile of a page a score.

It reads what the backbone makes of a question while only the base view is there: the
token that predicts the answer, behind the last layer, and the base view's patches of
each tile. It is trained on how probable the right answer becomes when a tile is looked
at, another beside it; which tile holds it is never told:

    loss = - sum over tiles of softmax(scores) * p(right answer | base view and tile)
           - entropy_weight * entropy of softmax(scores)

whose optimum is softmax(p / entropy_weight). That is the `expected_loss` of
`training.objectives.policy_objective`: the mean of its straight-through samples in the
limit of temperature 0. Pages of any number of tiles share one scorer.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from visor_jax.policy.features import unit_rms
from visor_jax.sharding.programs import mesh_jit

Params = Any


@flax.struct.dataclass
class TileFeatures:
    """What is read of n questions about pages of so many tiles, float32.

    question: hidden state of the token that predicts the answer. tiles: mean of the
    base view's patches of each. looks: share of each CROSS layer's attention that goes
    to the tile, which an untrained router goes by.
    """

    question: Float[Any, "n D"]
    tiles: Float[Any, "n tiles D"]
    looks: Float[Any, "n tiles layers"]

    def of(self, rows: np.ndarray) -> "TileFeatures":
        """Returns those of some of the questions."""
        return jax.tree.map(lambda array: jnp.asarray(array[rows]), self)


class TileScorer(nn.Module):
    """Two layers with GELU; the same for every tile. Scores begin alike for all.

    What a question asks and what a tile shows meet as a sum and as a product: whether
    they are of one colour is a product.
    """

    width: int = 64

    @nn.compact
    def __call__(self, features: TileFeatures) -> Float[Array, "n tiles"]:
        features = jax.tree.map(jnp.asarray, features)
        dense = functools.partial(nn.Dense, self.width)
        question = dense(name="question")(unit_rms(features.question))[:, None]
        tiles = dense(name="tiles")(unit_rms(features.tiles))
        both = [question * tiles, nn.gelu(question + tiles)]
        hidden = nn.gelu(dense(name="hidden")(jnp.concatenate(both, axis=-1)))
        zeros = nn.initializers.zeros
        return nn.Dense(1, kernel_init=zeros, name="score")(hidden)[..., 0]


def blank_features(width: int) -> TileFeatures:
    """Returns those of one question about one tile, all 0, for their shapes."""
    return TileFeatures(
        question=np.zeros((1, width), np.float32),
        tiles=np.zeros((1, 1, width), np.float32),
        looks=np.zeros((1, 1, 1), np.float32),
    )


@mesh_jit(static_argnames=("module",))
def _scores(params: Params, features: TileFeatures, *, module: TileScorer) -> Array:
    return module.apply({"params": params}, features)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainedScorer:
    """A scorer and its parameters."""

    module: TileScorer
    params: Params

    def scores(self, features: TileFeatures) -> Float[np.ndarray, "n tiles"]:
        """Returns the scores of every question's tiles."""
        tiles = features.looks.shape[1]
        # Few programs, whatever grids images have.
        room = max(4, 1 << (tiles - 1).bit_length()) - tiles
        filled = features.replace(
            tiles=np.pad(features.tiles, ((0, 0), (0, room), (0, 0))),
            looks=np.pad(features.looks, ((0, 0), (0, room), (0, 0))),
        )
        return np.asarray(_scores(self.params, filled, module=self.module))[:, :tiles]

    def flops(self, *, width: int, tiles: int) -> int:
        """Returns the FLOPs of scoring one question's tiles (1 multiply-add = 2)."""
        own = self.module.width
        return 2 * own * (width + tiles * (width + 2 * own + 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScorerTraining:
    """How a scorer is trained. batch_size: questions, all of one number of tiles."""

    steps: int = 2000
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    entropy_weight: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ValueError(
                f"steps={self.steps}, batch_size={self.batch_size} and learning_rate="
                f"{self.learning_rate} must be positive."
            )
        if self.weight_decay < 0 or self.entropy_weight < 0:
            raise ValueError(
                f"weight_decay={self.weight_decay} and entropy_weight="
                f"{self.entropy_weight} must not be negative."
            )


# Each with its own number of questions and of tiles.
Scored = tuple[TileFeatures, Float[np.ndarray, "_ _"]]


def train_scorer(
    scored: Sequence[Scored],
    training: ScorerTraining | None = None,
    module: TileScorer | None = None,
) -> TrainedScorer:
    """Returns a scorer that learned from these questions.

    Args:
      scored: for each number of tiles, questions and the probability of their right
        answer with each tile (and others) beside the base view.

    Raises:
      ValueError: for no questions, other numbers of them, or what is no probability.
    """
    training, module = training or ScorerTraining(), module or TileScorer()
    _check(scored)
    rates = optax.cosine_decay_schedule(training.learning_rate, training.steps)
    optimizer = optax.adamw(rates, weight_decay=training.weight_decay)

    @jax.jit
    def step(
        params: Params, moments: Any, features: TileFeatures, right: np.ndarray
    ) -> tuple[Params, Any]:
        loss = functools.partial(_loss, module, training.entropy_weight)
        grads = jax.grad(loss)(params, features, right)
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments

    first = scored[0][0].of(np.arange(1))
    params = module.init(jax.random.key(training.seed), first)["params"]
    moments = optimizer.init(params)
    draw = np.random.default_rng(training.seed)
    for number in range(training.steps):
        features, right = scored[number % len(scored)]
        rows = draw.integers(len(right), size=training.batch_size)
        params, moments = step(params, moments, features.of(rows), right[rows])
    return TrainedScorer(module=module, params=params)


def _check(scored: Sequence[Scored]) -> None:
    if not scored or not all(len(right) for _, right in scored):
        raise ValueError("A scorer learns from questions: there are none.")
    for features, right in scored:
        if right.shape != features.looks.shape[:2]:
            raise ValueError(
                f"features of {features.looks.shape[:2]} questions and tiles have "
                f"answers of {right.shape}."
            )
        if not (right.min() >= 0 and right.max() <= 1):
            raise ValueError(
                f"probabilities of right answers lie in {right.min()}..{right.max()}, "
                "not in 0..1."
            )


def _loss(
    module: TileScorer,
    entropy_weight: float,
    params: Params,
    features: TileFeatures,
    right: Float[Array, "n tiles"],
) -> Float[Array, ""]:
    log_choice = jax.nn.log_softmax(module.apply({"params": params}, features))
    choice = jnp.exp(log_choice)
    expected = jnp.sum(choice * right, axis=-1)
    entropy = -jnp.sum(choice * log_choice, axis=-1)
    return -jnp.mean(expected + entropy_weight * entropy)
