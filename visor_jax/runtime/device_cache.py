"""Device arrays by key within a bound of bytes; the longest unused goes first."""

import collections
import math
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

import jax

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def num_bytes_of(arrays: Any) -> int:
    """Returns the bytes on a device of a tree of arrays, or of their shapes."""
    return sum(_size(x) * x.dtype.itemsize for x in jax.tree.leaves(arrays))


def _size(x: Any) -> int:
    """Returns how many numbers of an array a device holds."""
    sharding = getattr(x, "sharding", None)
    if isinstance(sharding, jax.sharding.NamedSharding):
        return math.prod(sharding.shard_shape(x.shape))
    return x.size


class Held(Generic[K, V]):
    """Values by key; those that are busy stay, others go when there is need of room."""

    def __init__(
        self,
        most_bytes: int,
        *,
        most: int | None = None,
        is_busy: Callable[[V], bool] = lambda value: False,
        let_go: Callable[[K], None] = lambda key: None,
    ) -> None:
        """Holds nothing yet.

        Args:
          most_bytes: of all values together.
          most: values, None for any number; 0 for none.
          is_busy: whether a value must not go now.
          let_go: called with the key of a value that went for want of room.

        Raises:
          ValueError: for a negative bound.
        """
        if min(most_bytes, most or 0) < 0:
            raise ValueError(f"{most_bytes=} and {most=} must not be negative.")
        self._most_bytes, self._most = most_bytes, most
        self._is_busy, self._let_go = is_busy, let_go
        # In the order of their last use.
        self._values: collections.OrderedDict[K, tuple[V, int]]
        self._values = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def num_bytes(self) -> int:
        """Bytes of all values."""
        return sum(size for _, size in self._values.values())

    def items(self) -> Iterator[tuple[K, V]]:
        """Yields keys and values; nothing may come or go meanwhile."""
        return ((key, value) for key, (value, _) in self._values.items())

    def get(self, key: K) -> V | None:
        """Returns the value of a key, None if it is not held; counts as a use."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def has_room(self, num_bytes: int) -> bool:
        """Returns whether a value of this size could come, if all idle ones went."""
        busy = [size for value, size in self._values.values() if self._is_busy(value)]
        fits = self._most is None or len(busy) < self._most
        return fits and sum(busy) + num_bytes <= self._most_bytes

    def put(self, key: K, num_bytes: int, make: Callable[[], V]) -> V:
        """Returns a new value, made after as many idle ones went as it takes.

        It is held only if there is room for it.
        """
        self._values.pop(key, None)
        if not self.has_room(num_bytes):
            return make()
        idle = [k for k, (value, _) in self._values.items() if not self._is_busy(value)]
        for other in idle:
            too_many = self._most is not None and len(self._values) >= self._most
            if not too_many and self.num_bytes + num_bytes <= self._most_bytes:
                break
            del self._values[other]
            self._let_go(other)
        value = make()
        self._values[key] = value, num_bytes
        return value

    def remove(self, key: K) -> None:
        """Lets a value go, if it is held."""
        self._values.pop(key, None)

    def clear(self) -> None:
        """Lets everything go."""
        self._values.clear()
