"""`python -m visor_jax`: the commands, one line each.

    python -m visor_jax           # which commands there are
    python -m visor_jax.generate --help

Reads the first lines of their files and loads nothing.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from visor_jax.commands import command_line

PACKAGE = Path(__file__).parent
# What every command's file holds, and what its first line may begin with.
_START = "command_line.run(main)"
# Nothing here takes jax.
LIGHT = True


def define_flags() -> None:
    """Declares nothing: there are no flags."""


if __name__ == "__main__":
    command_line.begin(define_flags)


def main(arguments: list[str]) -> None:
    """Prints the commands."""
    del arguments
    found = dict(sorted(commands()))
    width = max(map(len, found))
    for name, text in found.items():
        print(f"python -m {name.ljust(width)}  {text}")


def commands() -> Iterator[tuple[str, str]]:
    """Yields every command's name and what it is for."""
    for file in PACKAGE.rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        if _START not in source or file.parent.name == "commands":
            continue
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__main__")
        first = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        text = first.removeprefix(f"`python -m {name}`: ")
        if name != PACKAGE.name:
            yield name, text[:1].upper() + text[1:]


if __name__ == "__main__":
    command_line.run(main)
