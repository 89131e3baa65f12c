"""Windows of neighbouring image tokens, as even as whole tokens can be.

A grid of h x w tokens is cut into floor(h r) x floor(w c) windows, none of which is
empty or leaves a token out; token i of h is in window floor(i m / h) of m:

    7 tokens at 1/2: 3 windows   0 0 0 1 1 2 2

A grid that is too thin for this has as many windows as its area allows, one at least.
The first token of a window speaks for it: what the window makes is written there.
"""

from fractions import Fraction

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from visor_jax.token_reduction.pooled.token_grid import TokenGrid

# How a window's neighbours lie: row by row, itself in the middle.
AROUND = tuple((down, across) for down in (-1, 0, 1) for across in (-1, 0, 1))


@flax.struct.dataclass
class TokenWindows:
    """The windows of all grids of an image, one grid after the other.

    index: (B, V) the window of each token, W where there is none. speaks: (B, V) the
    first token of each window. count: how many windows a row has, W at most. row,
    column: (B, V) of a token's window in its grid, of down x across windows. place,
    places: (B, V) the column of a token in its window, and how many it has.
    """

    index: Int[Array, "B V"]
    speaks: Bool[Array, "B V"]
    count: Int[Array, "B"]
    row: Int[Array, "B V"]
    column: Int[Array, "B V"]
    down: Int[Array, "B V"]
    across: Int[Array, "B V"]
    place: Int[Array, "B V"]
    places: Int[Array, "B V"]
    most: int = flax.struct.field(pytree_node=False)

    @classmethod
    def of(
        cls,
        grid: TokenGrid,
        shares: tuple[Fraction, Fraction],
        room: Int[Array, "B"],
        most: int,
    ) -> "TokenWindows":
        """Returns the windows of a batch.

        shares: windows per token, of rows and of columns. room: how many windows a row
        may have; those beyond are one with the last. most: static, at least all rooms.
        """
        down, across = _cuts(grid, shares)
        counts = jnp.where(grid.height > 0, down * across, 0)
        starts = jnp.cumsum(counts, axis=1, dtype=jnp.int32) - counts
        count = jnp.minimum(counts.sum(axis=1), room)
        start, down, across, height, width = (
            jnp.take_along_axis(x, grid.grid, axis=1)
            for x in (starts, down, across, grid.height, grid.width)
        )
        row = grid.row * down // jnp.maximum(height, 1)
        column = grid.column * across // jnp.maximum(width, 1)
        index = jnp.minimum(start + row * across + column, count[:, None] - 1)
        index = jnp.where(grid.there, index, most)
        first = -(-column * width // across)
        after = -(-(column + 1) * width // across)
        batch, tokens = jnp.arange(len(index))[:, None], jnp.arange(index.shape[1])
        leader = jnp.full((len(index), most), index.shape[1])
        leader = leader.at[batch, index].min(tokens, mode="drop")
        leads = jnp.take_along_axis(leader, jnp.minimum(index, most - 1), axis=1)
        return cls(
            index=index,
            speaks=grid.there & (leads == tokens),
            count=count,
            row=row,
            column=column,
            down=down,
            across=across,
            place=grid.column - first,
            places=jnp.maximum(after - first, 1),
            most=most,
        )

    def means(
        self, hidden: Float[Array, "B V D"], slots: int = 1
    ) -> Float[Array, "B W slots D"]:
        """Returns the mean of every window's tokens, in float32.

        slots: parts of its columns that are averaged apart; a part that has no token,
        in a window narrower than that, is the mean of the window.
        """
        slot = jnp.minimum(self.place * slots // self.places, slots - 1)
        index = jnp.where(self.index < self.most, self.index * slots + slot, -1)
        found, counts = _sums(hidden, index, self.most * slots)
        shape = (len(hidden), self.most, slots)
        found, counts = found.reshape(*shape, -1), counts.reshape(*shape, 1)
        whole = found.sum(axis=2, keepdims=True)
        whole /= jnp.maximum(counts.sum(axis=2, keepdims=True), 1)
        return jnp.where(counts > 0, found / jnp.maximum(counts, 1), whole)

    def around(self, values: Float[Array, "B W D"]) -> Float[Array, "B W 9 D"]:
        """Returns every window's value and those around it; zeros beyond an edge."""
        at_tokens = []
        for down, across in AROUND:
            row, column = self.row + down, self.column + across
            inside = (row >= 0) & (row < self.down)
            inside &= (column >= 0) & (column < self.across)
            other = self.index + down * self.across + across
            inside &= (other >= 0) & (other < self.count[:, None])
            at_tokens.append(jnp.where(inside, other, self.most))
        # Of every window, as its speaker sees them.
        batch = jnp.arange(len(values))[:, None]
        target = jnp.where(self.speaks, self.index, self.most)
        padded = jnp.pad(values, ((0, 0), (0, 1), (0, 0)))
        found = []
        for other in at_tokens:
            seen = jnp.full((len(values), self.most), self.most)
            seen = seen.at[batch, target].set(other, mode="drop")
            found.append(jnp.take_along_axis(padded, seen[..., None], axis=1))
        return jnp.stack(found, axis=2)

    def spread(
        self, hidden: Float[Array, "B V D"], values: Float[Array, "B W D"]
    ) -> Float[Array, "B V D"]:
        """Returns the tokens with every window's value where its speaker stands."""
        index = jnp.minimum(self.index, self.most - 1)[..., None]
        found = jnp.take_along_axis(values.astype(hidden.dtype), index, axis=1)
        return jnp.where(self.speaks[..., None], found, hidden)


def _cuts(
    grid: TokenGrid, shares: tuple[Fraction, Fraction]
) -> tuple[Int[Array, "B G"], Int[Array, "B G"]]:
    """Returns into how many windows each grid is cut, downwards and across."""
    rows, columns = shares
    both = rows * columns
    down = grid.height * rows.numerator // rows.denominator
    across = grid.width * columns.numerator // columns.denominator
    area = grid.height * grid.width * both.numerator // both.denominator
    area = jnp.maximum(area, 1)
    thin, narrow = down == 0, across == 0
    return (
        jnp.where(thin, 1, jnp.where(narrow, area, down)),
        jnp.where(thin, area, jnp.where(narrow, 1, across)),
    )


def _sums(
    hidden: Float[Array, "B V D"], index: Int[Array, "B V"], size: int
) -> tuple[Float[Array, "B S D"], Float[Array, "B S"]]:
    """Returns the sums of tokens with the same index, and how many they are."""
    batch = jnp.arange(len(hidden))[:, None]
    # What has no window is written behind the end, and so nowhere.
    index = jnp.where(index < 0, size, index)
    wide = hidden.astype(jnp.float32)
    sums = jnp.zeros((len(hidden), size, hidden.shape[2]), jnp.float32)
    counts = jnp.zeros((len(hidden), size), jnp.float32)
    return (
        sums.at[batch, index].add(wide, mode="drop"),
        counts.at[batch, index].add(1.0, mode="drop"),
    )
