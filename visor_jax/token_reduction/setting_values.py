"""The settings of a method: its dataclass fields, read from and written as text.

int 2    float 0.25    bool true, false    text words
tuple of numbers 8+16+24    None where a field allows it: none
"""

import dataclasses
import math
import types
import typing
from typing import Any

# Fields that say how a method works, not what is wanted of it.
_NOT_SETTINGS = ("position_rule", "reads_text", "reads_crops", "stages", "noted")
_NONE = "none"
_PLAIN = (int, float, bool, str)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field: its name, its type without None, its default, if it has any.

    items: the type of the elements of a tuple, else None. choices: of a Literal.
    """

    name: str
    kind: type
    default: Any = dataclasses.MISSING
    is_optional: bool = False
    items: type | None = None
    choices: tuple[Any, ...] = ()

    def is_default(self, value: Any) -> bool:
        """Returns whether the value need not be said."""
        return type(value) is type(self.default) and value == self.default

    @property
    def type_name(self) -> str:
        """How the type is called in a sentence."""
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if self.items is not None:
            return f"numbers with + between them ({self.items.__name__})"
        return {int: "a whole number", float: "a number", bool: "true or false"}.get(
            self.kind, "a text"
        )


def settings_of(method: type) -> tuple[Setting, ...]:
    """Returns the settings of a method's class, in the order of its fields."""
    hints = typing.get_type_hints(method)
    found = (
        _setting(field, hints[field.name])
        for field in dataclasses.fields(method)
        if field.init and field.name not in _NOT_SETTINGS
    )
    return tuple(setting for setting in found if setting is not None)


def read_value(setting: Setting, text: str) -> Any:
    """Returns the value that a text stands for.

    Raises:
      ValueError: for what is not of the setting's type.
    """
    if setting.is_optional and text == _NONE:
        return None
    try:
        if setting.items is not None:
            return tuple(_read(setting.items, part) for part in text.split("+"))
        value = _read(setting.kind, text)
        if setting.choices and value not in setting.choices:
            raise ValueError(text)
        return value
    except ValueError:
        raise ValueError(
            f"{setting.name}={text} must be {setting.type_name}."
        ) from None


def shown_value(value: Any) -> str:
    """Returns the text that `read_value` reads."""
    if value is None:
        return _NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "+".join(map(shown_value, value))
    # 1e+16 would be two numbers.
    return str(value).replace("e+", "e") if isinstance(value, float) else str(value)


def _setting(field: dataclasses.Field, hint: Any) -> Setting | None:
    """Returns the setting of a field; None if it is of no plain type."""
    default = field.default
    if default is dataclasses.MISSING and field.default_factory is not default:
        default = field.default_factory()
    is_optional = False
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        others = [each for each in typing.get_args(hint) if each is not type(None)]
        is_optional = len(others) < len(typing.get_args(hint))
        if len(others) != 1:
            return None
        (hint,) = others
    said = {"name": field.name, "default": default, "is_optional": is_optional}
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        return Setting(kind=type(choices[0]), choices=choices, **said)
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)[0]
        return Setting(kind=tuple, items=items, **said) if items in _PLAIN else None
    return Setting(kind=hint, **said) if hint in _PLAIN else None


def _read(kind: type, text: str) -> Any:
    if kind is bool:
        return {"true": True, "false": False}[text] if text in _BOOLS else _no(text)
    if kind is int:
        return int(text) if text.removeprefix("-").isdecimal() else _no(text)
    if kind is float:
        number = float(text)
        return number if math.isfinite(number) else _no(text)
    return text if text else _no(text)


_BOOLS = ("true", "false")


def _no(text: str) -> typing.NoReturn:
    raise ValueError(text)
