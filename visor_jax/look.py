"""What is looked at, and how far: crops of an image and a budget, as one value.

    all/sa2:5,17         every crop, as without a look; "sa2:5,17" alone is the same
    base/sa0             crop 0 alone: the whole image, squashed
    base+2/sa1:11        the base view and two tiles: the first, unless they are chosen
    base+2:1,4/sa1:11    the base view and tiles 1 and 4 (tile n is crop n, row by row)
    best+2/sa1:11        the base view first, and the two tiles that it says are asked
                         about (`inference.routing.tile_chooser`)

A `Look` is frozen and hashable. The base view is in every one: what text asks can be
told from it more often than not, and it shows which tiles are worth their cost. Looks
are ordered by cost: crops first, since the tower's work on them is most of the bill,
then layers. Which `Look` is the cheaper one of a given network and image, to the FLOP,
`visor_jax.flops.looks` says.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable

from visor_jax.budget import Budget
from visor_jax.budget_names import split_names
from visor_jax.layer_plan import LayerPlan

_EXAMPLES = "'base', 'all', 'base+2', 'base+2:1,4' or 'best+2'"
_TILES = re.compile(r"base\+([0-9]{1,6})(?::([0-9]{1,6}(?:,[0-9]{1,6})*))?")
_BEST = re.compile(r"best\+([0-9]{1,6})")


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


@dataclasses.dataclass(frozen=True)
class Crops:
    """Which crops of an image are looked at; the base view, crop 0, always is.

    count: how many tiles beside it; None for all there are. tiles: which, ascending
    from 1; None where nobody has chosen any: then the first ones. best: those that a
    network chooses when it has seen the base view.
    """

    count: int | None = None
    tiles: tuple[int, ...] | None = None
    best: bool = False

    def __post_init__(self) -> None:
        if self.count is not None and (not _is_whole(self.count) or self.count < 0):
            raise ValueError(
                f"A look at {self.count!r} tiles: give a whole number from 0 on, or "
                "None for all of them."
            )
        tiles = self.tiles
        if self.best and (not self.count or tiles is not None):
            raise ValueError(
                f"The best tiles are counted, from 1 on, and not listed: got "
                f"count={self.count!r}, tiles={tiles!r:.80}."
            )
        if tiles is None:
            return
        if not isinstance(tiles, tuple) or not all(map(_is_whole, tiles)):
            raise ValueError(f"tiles={tiles!r:.80} are no tiles: write (1, 4).")
        if list(tiles) != sorted({*tiles} - {0}) or min(tiles, default=1) < 1:
            raise ValueError(
                f"Tiles must ascend from 1 without repeats, got {list(tiles)} (0 is "
                "the base view, which is in every look)."
            )
        if self.count != len(tiles):
            raise ValueError(
                f"A look says {self.count} tiles and lists {len(tiles)}: {list(tiles)}."
            )

    @classmethod
    def parse(cls, name: str) -> "Crops":
        """Returns the crops of this name.

        "base", "all", "base+2", "base+2:1,4" or "best+2".

        Raises:
          ValueError: for any other name, or one that lists another number of tiles than
            it says; "base+0" among them, which is "base".
        """
        if name in ("all", "base"):
            return cls() if name == "all" else cls(0)
        best = _BEST.fullmatch(name)
        match = best or _TILES.fullmatch(name)
        if match is None:
            raise ValueError(f"Unknown crops {name!r}: write {_EXAMPLES}.")
        count = int(match[1])
        if count == 0:
            raise ValueError(
                f"Crops {name!r} ask for no tile beside the base view: write 'base'."
            )
        if best or match[2] is None:
            return cls(count, best=bool(best))
        tiles = tuple(map(int, match[2].split(",")))
        if len(tiles) != count:
            raise ValueError(
                f"Crops {name!r} say {count} tiles but list {len(tiles)}: the number "
                "before the colon counts those behind it."
            )
        return cls(count, tiles)

    @property
    def name(self) -> str:
        if self.count is None:
            return "all"
        if self.count == 0:
            return "base"
        if self.best:
            return f"best+{self.count}"
        listed = "" if self.tiles is None else ":" + ",".join(map(str, self.tiles))
        return f"base+{self.count}{listed}"

    @property
    def is_all(self) -> bool:
        """Whether every crop is looked at, whatever the image."""
        return self.count is None

    @property
    def unlisted(self) -> "Crops":
        """As many crops, none listed; the best stay what a network is to choose."""
        return Crops(self.count, best=self.best)

    def choosing(self, tiles: Iterable[int]) -> "Crops":
        """Returns as many crops, with these tiles chosen.

        Raises:
          ValueError: if they are not as many as the look has.
        """
        return Crops(self.count, tuple(sorted(tiles)))

    def of_image(self, crops: int) -> tuple[int, ...]:
        """Returns which crops of an image are looked at, ascending.

        More than the image has are all that it has (`exceeds` tells); of listed tiles
        those that it does not have are left out.

        Args:
          crops: of the image, the base view included; () of 0, where there is no image.

        Raises:
          ValueError: for the best of several tiles: who has no network cannot say.
        """
        if self.best and self.count < crops - 1:
            raise ValueError(
                f"Which of {crops - 1} tiles are {self.name!r} a network says when it "
                f"has seen the base view: here say 'base+{self.count}', or list tiles."
            )
        wanted = range(1, crops) if self.count is None else range(1, self.count + 1)
        tiles = wanted if self.tiles is None else self.tiles
        return (0, *(tile for tile in tiles if tile < crops)) if crops else ()

    def exceeds(self, crops: int) -> bool:
        """Returns whether the look asks for tiles that an image does not have."""
        asked = (self.count,) if self.tiles is None else self.tiles
        return self.count is not None and max(asked, default=0) >= max(crops, 1)

    def __str__(self) -> str:
        return self.name


ALL = Crops()
BASE = Crops(0)


def crops_of(said: object) -> Crops:
    """Returns the crops that a caller asks for.

    Args:
      said: "all" or None, "base", how many tiles beside the base view, or a name of
        `Crops.parse`.

    Raises:
      ValueError: for anything else, and for 0 tiles.
    """
    if said is None or isinstance(said, Crops):
        return ALL if said is None else said
    if isinstance(said, int) and not isinstance(said, bool):
        said = str(said)
    if not isinstance(said, str):
        raise ValueError(
            f"crops={said!r:.80} is neither a name ('base', 'all', 'base+2') nor how "
            "many tiles to look at beside the base view."
        )
    if not said.removeprefix("-").isdecimal():
        return Crops.parse(said)
    if int(said) < 1:
        raise ValueError(
            f"crops={said}: a number counts tiles beside the base view, from 1 on; "
            "write 'base' for none."
        )
    return Crops(int(said))


@functools.total_ordering
@dataclasses.dataclass(frozen=True)
class Look:
    """Which crops, and which budget."""

    crops: Crops
    budget: Budget

    @classmethod
    def parse(cls, name: str, plan: LayerPlan) -> "Look":
        """Returns the look of this name; a budget's name alone means all crops.

        Raises:
          ValueError: if either part does not parse, or the budget is not of the plan.
        """
        crops, slash, budget = name.partition("/")
        if not slash:
            if crops == "base" or any(p.fullmatch(crops) for p in (_TILES, _BEST)):
                raise ValueError(
                    f"Look {name!r} says which crops and no budget: write e.g. "
                    f"'{name}/none'."
                )
            return cls(ALL, Budget.parse(name, plan))
        if not budget:
            raise ValueError(
                f"Look {name!r} names no budget: write e.g. '{crops}/none'."
            )
        return cls(Crops.parse(crops), Budget.parse(budget, plan))

    @property
    def name(self) -> str:
        return f"{self.crops.name}/{self.budget.name}"

    @property
    def unchosen(self) -> "Look":
        """The look with as many crops and no word of which: one program serves them."""
        return Look(Crops(self.crops.count), self.budget)

    def __lt__(self, other: "Look") -> bool:
        """Returns whether this look costs less, or comes first among equals."""
        if not isinstance(other, Look):
            return NotImplemented
        return self._cost < other._cost

    @property
    def _cost(self) -> tuple[float, int, int, str]:
        count = self.crops.count
        # The base view goes through the tower once more for the best.
        crops = float("inf") if count is None else count + self.crops.best
        return (crops, *self.budget.size, self.name)

    def __str__(self) -> str:
        return self.name


def parse_looks(names: str | Iterable[str], plan: LayerPlan) -> tuple[Look, ...]:
    """Returns the looks of these names, in their order.

    Args:
      names: one by one, or in one string, separated by commas.

    Raises:
      ValueError: for a name that does not parse, none at all, or one that is there
        twice.
    """
    split = split_looks(names) if isinstance(names, str) else list(names)
    looks = tuple(Look.parse(name, plan) for name in split)
    repeated = sorted({look.name for look in looks if looks.count(look) > 1})
    if repeated:
        raise ValueError(f"Looks {repeated} are listed more than once.")
    if not looks:
        raise ValueError("A list of looks needs at least one.")
    return looks


def split_looks(text: str) -> list[str]:
    """Returns the names of a list with commas; those of a name stay with it."""
    parts, names = text.split(","), []
    while parts:
        name = parts.pop(0)
        while parts and _goes_on(name, parts[0]):
            name += f",{parts.pop(0)}"
        names.append(name)
    return names


def _goes_on(name: str, part: str) -> bool:
    """Returns whether a part behind a comma belongs to the name before it."""
    _, slash, budget = name.rpartition("/")
    tiles = None if slash else _TILES.fullmatch(name)
    if tiles is not None and tiles[2] is not None:
        return tiles[2].count(",") + 1 < int(tiles[1])
    return len(split_names(f"{budget},{part}")) == 1
