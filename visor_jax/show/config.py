"""`python -m visor_jax.show.config`: what a configuration says, and what reads it.

    python -m visor_jax.show.config --config=configs/universal.py:llava_ov_0p5b

Prints every value with the settings class that reads it and the file of that class,
whose docstring says what the value means. Each can be set by a flag of its name:
`--config.loop.steps=300`. Nothing is checked but that there is a reader.
"""

from absl import flags

from visor_jax.commands import command_line, config_flag


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    config_flag.define_config_flag()


if __name__ == "__main__":
    command_line.begin(define_flags)

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import visor_jax
from visor_jax.settings.sections import SECTIONS, Sections, class_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigValue:
    """A value of a configuration by its dotted name, and the class that reads it."""

    name: str
    value: Any
    read_by: type

    @property
    def file(self) -> str:
        """The file of the class, from the folder that holds the package."""
        folder = Path(visor_jax.__file__).parents[1]
        return Path(inspect.getfile(self.read_by)).relative_to(folder).as_posix()


def values_of(config: Mapping[str, Any]) -> list[ConfigValue]:
    """Returns all values of a configuration, in its order.

    Raises:
      ValueError: for an unknown task, or values that no class reads.
    """
    task = config.get("task", "universal")
    if task not in SECTIONS:
        raise ValueError(f"{task=} is not one of {tuple(SECTIONS)}.")
    sections = SECTIONS[task]
    values = list(_leaves(sections, "", config))
    readers = {name: _reader(sections, name) for name, _ in values}
    unread = [name for name, reader in readers.items() if reader is None]
    if unread:
        raise ValueError(
            f"No settings class reads {unread}: see the fields of the classes in "
            "visor_jax/settings/sections.py."
        )
    return [ConfigValue(name=n, value=v, read_by=readers[n]) for n, v in values]


def _leaves(sections: Sections, name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value); what is no section is one value, however deep."""
    opened = class_of(sections, name) or f"{name}.*" in sections
    if not (opened and isinstance(value, Mapping) and value):
        yield name, value
        return
    for key, inner in value.items():
        yield from _leaves(sections, f"{name}.{key}" if name else key, inner)


def _reader(sections: Sections, name: str) -> type | None:
    """Returns the class that has a field for the value; None if there is none."""
    if whole := class_of(sections, name):
        return whole
    section, _, field = name.rpartition(".")
    reader = class_of(sections, section)
    if reader is None or field not in {f.name for f in dataclasses.fields(reader)}:
        return None
    return reader


def table(values: Sequence[ConfigValue]) -> str:
    """Returns a line for each value: name, class, file and what it is."""
    rows = [("value", "read by", "in", "is")]
    rows += [(v.name, v.read_by.__name__, v.file, repr(v.value)) for v in values]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def main(arguments: list[str]) -> None:
    """Prints the table of the configuration that the flags describe."""
    del arguments
    with command_line.user_errors():
        values = values_of(config_flag.config_of(flags.FLAGS).to_dict())
    print(table(values))


if __name__ == "__main__":
    command_line.run(main)
