"""The names of budgets: "sa0", "sa2:8,16", "sa1:2+rd2:8,16", and lists of them.

A number says how many layers are listed behind it, so that names can stand in a list
with commas: "sa0,sa2:8,16,sa1:8".
"""

import re

_LAYERS = r"(\d{1,9})(?::(\d{1,9}(?:,\d{1,9})*))?"
_NAME = re.compile(rf"sa{_LAYERS}(?:\+rd{_LAYERS})?")
_NUMBER = re.compile(r"[0-9]{1,9}")
# A name whose last list may go on behind a comma, and what it may go on with.
_BEGUN = re.compile(r"(?:.*\+)?(?:sa|rd)([0-9]{1,9}):([0-9]+(?:,[0-9]+)*)")
_GOES_ON = re.compile(r"[0-9]{1,9}(?:\+rd[0-9]{1,9}(?::[0-9]{1,9})?)?")


def is_number(text: str) -> bool:
    """Returns whether this is a number of layers."""
    return _NUMBER.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Returns whether this has the form of a name; its counts may yet be wrong."""
    return _NAME.fullmatch(text) is not None


def layers_of(name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the layers that are on, and those that read.

    Raises:
      ValueError: for what is no name, or lists another number of layers than it says.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"Unknown budget {name!r}: write e.g. 'sa2:8,16' (count, then the SELF "
            "layers)."
        )
    return _listed(name, match[1], match[2]), _listed(name, match[3], match[4])


def name_of(on: tuple[int, ...], read: tuple[int, ...]) -> str:
    """Returns the name of a budget with these layers on and these reading."""
    name = _counted("sa", on)
    return f"{name}+{_counted('rd', read)}" if read else name


def split_names(text: str) -> list[str]:
    """Returns the names of a list with commas; those of a name stay with it."""
    parts, names = text.split(","), []
    while parts:
        name = parts.pop(0)
        while parts and _GOES_ON.fullmatch(parts[0]) and _lacks_layers(name):
            name += f",{parts.pop(0)}"
        names.append(name)
    return names


def _lacks_layers(name: str) -> bool:
    """Returns whether a name's last list is shorter than the count before it says."""
    begun = _BEGUN.fullmatch(name)
    return begun is not None and begun[2].count(",") + 1 < int(begun[1])


def _listed(name: str, count: str | None, layers: str | None) -> tuple[int, ...]:
    found = tuple(int(i) for i in layers.split(",")) if layers else ()
    if len(found) != int(count or 0):
        raise ValueError(
            f"Budget {name!r} says {count} SELF layers but lists {len(found)}."
        )
    return found


def _counted(prefix: str, layers: tuple[int, ...]) -> str:
    listed = ",".join(map(str, layers))
    return f"{prefix}{len(layers)}" + (f":{listed}" if listed else "")
