"""Which decoder layers see the image, and how: the static half of VISOR.

A `LayerPlan` fixes the parameters and the shape of the program. Which of its SELF
layers run on a given sample is the other half and lives in `visor_jax.budget`.
"""

import dataclasses
import enum
import itertools
from collections.abc import Iterable
from typing import TypeVar

Gate = TypeVar("Gate")


class LayerKind(enum.Enum):
    """What one decoder layer does with the image stream.

    What follows from it is asked of the kind, never of its name: whether a budget can
    switch it off (`is_gated`), whether it has an adapter with parameters of its own
    (`has_adapter`), whether text sees the image in it while it is on (`sees_image`),
    and whether the image itself comes out changed (`refines_image`).
    """

    TEXT = "text"  # text only
    CROSS = "cross"  # a text-to-image adapter, then the layer on text only
    READ = "read"  # text looks at the image in the layer itself; the image stays
    SELF = "self"  # if switched on: the layer on image and text; if off: as TEXT

    @property
    def is_gated(self) -> bool:
        return self is LayerKind.SELF

    @property
    def has_adapter(self) -> bool:
        return self is LayerKind.CROSS

    @property
    def sees_image(self) -> bool:
        return self is not LayerKind.TEXT

    @property
    def refines_image(self) -> bool:
        return self is LayerKind.SELF


class Middle(enum.Enum):
    """The one position of a gate between False (off) and True (on)."""

    READ = "read"


# Of a SELF layer: text sees the image as in a READ layer, and nothing refines it.
READ = Middle.READ
# A gate whose position is known: off, READ or on.
StaticGate = bool | Middle


@dataclasses.dataclass(frozen=True)
class RepeatedLayers:
    """The same few layers, several times over.

    kinds: of one repetition. Where it says SELF, some repetitions may have a TEXT
    layer: it is what a SELF layer is whose gate is never on.
    image_is_read: whether a later layer may read what such a layer makes of the image.
    """

    start: int
    kinds: tuple[LayerKind, ...]
    image_is_read: tuple[bool, ...]
    count: int

    @property
    def stop(self) -> int:
        """The first layer behind them."""
        return self.start + len(self.kinds) * self.count

    def column(self, place: int) -> range:
        """Returns the layers that stand at a place of every repetition."""
        return range(self.start + place, self.stop, len(self.kinds))


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """One kind per decoder layer, first layer first (hashable, static under jit)."""

    kinds: tuple[LayerKind, ...]

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ValueError("A LayerPlan needs at least one layer.")
        wrong = [k for k in self.kinds if not isinstance(k, LayerKind)]
        if wrong:
            raise ValueError(f"LayerPlan.kinds takes LayerKind values, got {wrong}.")

    @classmethod
    def build(
        cls,
        num_layers: int,
        *,
        cross: Iterable[int] = (),
        self_: Iterable[int] = (),
        read: Iterable[int] = (),
    ) -> "LayerPlan":
        """Returns the plan with layers of these kinds at the given depths, else TEXT.

        Raises:
          ValueError: for an index outside 0..num_layers-1, a repeated index, or a layer
            that is asked to be of two kinds; all offenders are named.
        """
        asked = {
            LayerKind.CROSS: tuple(cross),
            LayerKind.SELF: tuple(self_),
            LayerKind.READ: tuple(read),
        }
        problems = []
        for kind, layers in asked.items():
            name = kind.name
            if len(layers) > num_layers:
                problems.append(
                    f"{len(layers)} {name} layers do not fit {num_layers} layers"
                )
            outside = sorted({i for i in layers if not 0 <= i < num_layers})
            if outside:
                last = num_layers - 1
                problems.append(f"{name} layers {outside} are not in 0..{last}")
            repeated = sorted({i for i in layers if layers.count(i) > 1})
            if repeated:
                problems.append(f"{name} layers {repeated} are listed repeatedly")
        for one, other in itertools.combinations(asked, 2):
            both = sorted(set(asked[one]) & set(asked[other]))
            if both:
                names = f"{one.name} and {other.name}"
                problems.append(f"layers {both} are both {names}: choose one")
        if problems:
            raise ValueError("Impossible LayerPlan: " + "; ".join(problems) + ".")
        kinds = [LayerKind.TEXT] * num_layers
        for kind, layers in asked.items():
            for layer in layers:
                kinds[layer] = kind
        return cls(tuple(kinds))

    @classmethod
    def dense(cls, num_layers: int) -> "LayerPlan":
        """Returns the plan of the unmodified LVLM: every layer SELF."""
        return cls((LayerKind.SELF,) * num_layers)

    @property
    def trunk_length(self) -> int:
        """How many layers come before the first that a budget can switch off.

        These run alike at every budget, and in none of them does the image change.
        """
        kinds = enumerate(self.kinds)
        return next(
            (i for i, k in kinds if k.is_gated or k.refines_image), self.num_layers
        )

    @property
    def num_layers(self) -> int:
        return len(self.kinds)

    @property
    def self_layers(self) -> tuple[int, ...]:
        return tuple(i for i, kind in enumerate(self.kinds) if kind.is_gated)

    @property
    def cross_layers(self) -> tuple[int, ...]:
        return tuple(i for i, kind in enumerate(self.kinds) if kind.has_adapter)

    @property
    def read_layers(self) -> tuple[int, ...]:
        return tuple(i for i, k in enumerate(self.kinds) if k is LayerKind.READ)

    @property
    def layers_by_kind(self) -> dict[str, tuple[int, ...]]:
        """{name of a kind: its layers}; CROSS and SELF always, others where any are."""
        always, last = (LayerKind.CROSS, LayerKind.SELF), LayerKind.TEXT
        found: dict[str, tuple[int, ...]] = {}
        others = (kind for kind in LayerKind if kind not in (*always, last))
        for kind in (*always, *others, last):
            layers = tuple(i for i, each in enumerate(self.kinds) if each is kind)
            if layers or kind in always:
                found[kind.name] = layers
        return found

    @property
    def is_dense(self) -> bool:
        return all(kind is LayerKind.SELF for kind in self.kinds)

    def gate_of_layer(self, gates: Iterable[Gate]) -> dict[int, Gate]:
        """Returns {layer: its gate} of gates in the order of the SELF layers.

        Raises:
          ValueError: for another number of gates.
        """
        return dict(zip(self.self_layers, gates, strict=True))

    def image_is_read_after(self, layer: int, gates: Iterable[object]) -> bool:
        """Returns whether a layer after `layer` may read the image stream.

        `gates` holds one entry per SELF layer; only a Python `False` rules a reader out
        (a traced gate may turn out to be on). What nobody reads is not computed.
        """
        on = self.gate_of_layer(gates)
        return any(
            kind.sees_image and on.get(i, True) is not False
            for i, kind in enumerate(self.kinds)
            if i > layer
        )

    def unrefined_until(self, gates: Iterable[object]) -> int:
        """Returns the first layer that refines the image, the plan's end for none.

        Up to there, itself included, layers see the image as the projector made it.
        `gates` are static, one entry per SELF layer.
        """
        on = self.gate_of_layer(gates)
        refining = (
            i
            for i, kind in enumerate(self.kinds)
            if kind.refines_image and on.get(i, True) is True
        )
        return next(refining, self.num_layers)

    def repeated(self, start: int, stop: int) -> RepeatedLayers | None:
        """Returns what layers start..stop-1 begin with several times over, if anything.

        Of all periods the one that leaves fewest layers to be written out, one
        repetition and the rest; the shorter of two. None where that spares nothing.
        """
        found = [
            layers
            for period in range(1, (stop - start) // 2 + 1)
            if (layers := self._repeated_by(period, start, stop)) is not None
        ]
        if not found:
            return None
        return min(found, key=lambda r: (len(r.kinds) + stop - r.stop, len(r.kinds)))

    def _repeated_by(self, period: int, start: int, stop: int) -> RepeatedLayers | None:
        """Returns the longest run of repetitions of this many layers, None for one."""
        every_gate = (True,) * len(self.self_layers)

        def layer(index: int) -> tuple[LayerKind, bool]:
            kind = self.kinds[index]
            read = kind.refines_image and self.image_is_read_after(index, every_gate)
            return kind, read

        places: list[set[tuple[LayerKind, bool]]] = [set() for _ in range(period)]
        count = 0
        while start + (count + 1) * period <= stop:
            first = start + count * period
            grown = [seen | {layer(first + i)} for i, seen in enumerate(places)]
            if not all(map(_are_alike, grown)):
                break
            places, count = grown, count + 1
        if count < 2:
            return None
        kinds, read = zip(*(max(seen, key=_is_gated) for seen in places), strict=True)
        return RepeatedLayers(start, kinds, read, count)


def _is_gated(layer: tuple[LayerKind, bool]) -> bool:
    return layer[0].is_gated


def _are_alike(layers: set[tuple[LayerKind, bool]]) -> bool:
    """Returns whether one body serves all: they are one, or one SELF layer and TEXT."""
    others = layers - {(LayerKind.TEXT, False)}
    return len(layers) == 1 or (len(others) == 1 and all(map(_is_gated, others)))
