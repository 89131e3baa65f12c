"""What `--help` prints: what the command is for, an example, and all of its flags."""

import textwrap
from collections.abc import Sequence

from absl import flags

_ASKING = ("--help", "-help", "-h", "-?", "--helpshort")
_WIDTH = 80
_REQUIRED = "must have a value other than None"


def is_asked_for(arguments: Sequence[str]) -> bool:
    """Returns whether the arguments of a command ask for its help."""
    given = list(arguments)
    if "--" in given:
        given = given[: given.index("--")]
    return any(each in _ASKING for each in given)


def help_text(usage: str, names: Sequence[str]) -> str:
    """Returns the help of a command.

    usage: its docstring, which shows examples. names: of its own flags.
    """
    described = "\n".join(_describe(flags.FLAGS[name]) for name in sorted(names))
    return (
        f"{usage.strip()}\n\nflags, each as --name=value:\n\n{described}\n\n"
        "--helpfull lists those of the libraries as well.\n"
    )


def _describe(flag: flags.Flag) -> str:
    """Returns the lines about one flag."""
    facts = []
    if any(_REQUIRED in validator.message for validator in flag.validators):
        facts.append("needed")
    if flag.default not in (None, []):
        shown = flag.default
        if isinstance(shown, list):
            shown = ",".join(map(str, shown))
        facts.append(f"default {str(shown).lower() if flag.boolean else shown}")
    text = flag.help + (f" ({'; '.join(facts)})" if facts else "")
    name = f"[no]{flag.name}" if flag.boolean else flag.name
    lines = textwrap.wrap(
        f"--{name}: {' '.join(text.split())}",
        _WIDTH,
        initial_indent="  ",
        subsequent_indent=" " * 6,
        break_on_hyphens=False,
    )
    return "\n".join(lines)
