"""How the next token is chosen from its logits.

In the order of Hugging Face `transformers`: tokens used before are made less likely by
the repetition penalty. At temperature 0 the likeliest token is taken. Otherwise logits
are divided by the temperature, cut to the `top_k` likeliest tokens, then to the
smallest set whose probabilities reach `top_p`; a token is drawn from what is left.

Settings are arrays, a number for each row: none of them is a program of its own, and
rows of one batch may differ. What no row asks for is not computed.
"""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from visor_jax.data.prompts.sampling import Sampling

# Up to so many tokens of `top_k` are found without sorting the vocabulary, which takes
# a hundred times as long.
_FEW = 64
# As `RowSampling.cut_mass`: no token is cut.
_NOTHING = -1.0


@flax.struct.dataclass
class RowSampling:
    """The settings of B rows.

    temperature: 0 takes the likeliest token. top_k: 0 keeps all tokens. cut_mass: how
    much probability the unlikeliest tokens may hold together that are cut, 1 - top_p;
    below 0 none is cut. repetition_penalty: 1 for none.
    """

    temperature: Float[Array, "B"]
    top_k: Int[Array, "B"]
    cut_mass: Float[Array, "B"]
    repetition_penalty: Float[Array, "B"]

    @classmethod
    def of(cls, settings: Sequence[Sampling]) -> "RowSampling":
        """Returns NumPy arrays of these settings, a row each."""
        return cls(
            temperature=np.array([s.temperature for s in settings], np.float32),
            # More tokens than any vocabulary has are all of them.
            top_k=np.array([min(s.top_k or 0, 2**31 - 1) for s in settings], np.int32),
            cut_mass=np.array([_cut_mass(s) for s in settings], np.float32),
            repetition_penalty=np.array(
                [s.repetition_penalty for s in settings], np.float32
            ),
        )

    def only(self, rows: Bool[Array, "B"]) -> "RowSampling":
        """Returns these settings for some rows; the others ask for nothing."""
        return self.replace(
            temperature=jnp.where(rows, self.temperature, 0),
            repetition_penalty=jnp.where(rows, self.repetition_penalty, 1),
        )


def _cut_mass(sampling: Sampling) -> float:
    # In double precision: float32 knows no 1 - 1e-9.
    is_cut = sampling.top_p is not None and sampling.top_p < 1
    return 1 - sampling.top_p if is_cut else _NOTHING


def also_used(settings: Sequence[Sampling], most: int) -> Int[np.ndarray, "B A"]:
    """Returns the tokens that count as used from the start, -1 behind them."""
    found = np.full((len(settings), most), -1, np.int32)
    for row, sampling in zip(found, settings, strict=True):
        row[: len(sampling.also_used)] = sampling.also_used
    return found


@jax.named_scope("sample_token")
def sample_token(
    logits: Float[Array, "B W"],
    sampling: RowSampling | None = None,
    keys: Key[Array, "B"] | None = None,
    used: Bool[Array, "B W"] | None = None,
) -> Int[Array, "B"]:
    """Returns the chosen token of each row.

    Args:
      sampling: None takes the likeliest token of every row.
      keys: one per row, so that a row's draw does not depend on its neighbours. used:
        the tokens that the repetition penalty is for. Both are needed with `sampling`.
    """
    likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if sampling is None:
        return likeliest

    def drawn(logits: Float[Array, "B W"]) -> Int[Array, "B"]:
        kept = filtered(logits, sampling)
        return jax.vmap(jax.random.categorical)(keys, kept).astype(jnp.int32)

    def chosen() -> Int[Array, "B"]:
        # Exactly the logits themselves where the penalty is 1.
        lowered = penalised(logits, used, sampling.repetition_penalty)
        likeliest = jnp.argmax(lowered, axis=-1).astype(jnp.int32)
        found = jax.lax.cond(draws.any(), drawn, lambda _: likeliest, lowered)
        return jnp.where(draws, found, likeliest)

    draws = sampling.temperature > 0
    asks = draws | (sampling.repetition_penalty != 1)
    return jax.lax.cond(asks.any(), chosen, lambda: likeliest)


def penalised(
    logits: Float[Array, "B W"], used: Bool[Array, "B W"], penalty: Float[Array, "B"]
) -> Float[Array, "B W"]:
    """Returns the logits with those of used tokens lowered (CTRL, Keskar et al. 2019).

    Positive ones are divided by the penalty, negative ones multiplied.
    """
    penalty = penalty[:, None]
    lowered = jnp.where(logits < 0, logits * penalty, logits / penalty)
    return jnp.where(used, lowered, logits)


def filtered(logits: Float[Array, "B W"], sampling: RowSampling) -> Float[Array, "B W"]:
    """Returns the logits that tokens are drawn from; -inf for tokens that are cut.

    Those of a row at temperature 0 are its logits, cut or not.
    """
    draws, vocabulary = sampling.temperature > 0, logits.shape[-1]
    divisor = jnp.where(draws, sampling.temperature, 1)
    logits = logits.astype(jnp.float32) / divisor[:, None]
    all_kept = (sampling.top_k == 0) | (sampling.top_k > vocabulary)
    count = jnp.where(all_kept, vocabulary, sampling.top_k)
    few = min(_FEW, vocabulary)
    by_count = draws & (count < vocabulary)
    by_sorting = draws & (sampling.cut_mass >= 0) | by_count & (count > few)

    def of_few(logits: Float[Array, "B W"]) -> Float[Array, "B W"]:
        likeliest, _ = jax.lax.top_k(logits, few)
        least = _at(likeliest, jnp.clip(count - 1, 0, few - 1))
        return jnp.where(by_count[:, None] & (logits < least), -jnp.inf, logits)

    way = jnp.where(by_sorting.any(), 2, by_count.any().astype(jnp.int32))
    ways = (lambda logits: logits, of_few, lambda x: _sorted_cut(x, count, sampling))
    return jax.lax.switch(way, ways, logits)


def _sorted_cut(
    logits: Float[Array, "B W"], count: Int[Array, "B"], sampling: RowSampling
) -> Float[Array, "B W"]:
    """Cuts all but `count` tokens, then the unlikeliest that hold little together.

    Tokens as likely as the last one of `count` stay too.

    probabilities  0.5  0.1  0.15  0.25      cut_mass 0.3
    summed from the unlikeliest on: 0.1, 0.25, 0.5, 1.0
    cut                 x    x
    """
    order = jnp.argsort(logits, axis=-1)
    ascending = jnp.take_along_axis(logits, order, axis=-1)
    least = _at(ascending, logits.shape[-1] - count)
    ascending = jnp.where(ascending < least, -jnp.inf, ascending)
    summed = jnp.cumsum(jax.nn.softmax(ascending, axis=-1), axis=-1)
    cut = (summed <= sampling.cut_mass[:, None]).at[:, -1].set(False)
    cut |= jnp.isneginf(ascending)
    rows = jnp.arange(logits.shape[0])[:, None]
    cut = jnp.zeros(logits.shape, bool).at[rows, order].set(cut, unique_indices=True)
    return jnp.where(cut, -jnp.inf, logits)


def _at(values: Float[Array, "B N"], index: Int[Array, "B"]) -> Float[Array, "B 1"]:
    return jnp.take_along_axis(values, index[:, None], axis=-1)
