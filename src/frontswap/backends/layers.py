"""Layers: the settings of a backend or a filter, checked when they are made, used when a stack is registered.

What may enter: how a setting is declared, converted and shown. What may not: what a layer does with pages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from ..core.filters import Filter as NativeFilter
from ..core.native import Native
from ..errors import ParameterError
from ..sizes import parse_size

if TYPE_CHECKING:
    from .contract import Backend
    from .stack import Stack

# What a setting may be given as; once made, a layer has it converted: bytes, nanoseconds, a float, a bool.
Bytes = int | str
Duration = float | str
Fraction = float | str
Switch = bool | str
Convert = Callable[[Any, str], Any]


def setting(default: object, convert: Convert) -> Any:
    """A field of a layer. `convert(value, parameter)` returns what it means or raises a ParameterError."""
    return dataclasses.field(default=default, metadata={"convert": convert})


def size(value: int | str, parameter: str) -> int:
    """A setting in bytes, more than none."""
    found = parse_size(value, parameter)
    if found == 0:
        raise ParameterError(parameter, value, "more than 0 bytes")
    return found


def count(value: int | str, parameter: str) -> int:
    """A whole number from 1 on."""
    try:
        found = int(value)
    except (TypeError, ValueError):
        found = 0
    if not 0 < found < 1 << 31 or isinstance(value, bool | float):
        raise ParameterError(parameter, value, "a whole number from 1 on")
    return found


def fraction(value: float | str, parameter: str) -> float:
    """A part: 0.9 or "90%"."""
    allowed = 'from 0 to 1, or "0%" to "100%"'
    try:
        text = str(value).strip()
        found = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ParameterError(parameter, value, allowed) from None
    if not 0 <= found <= 1 or isinstance(value, bool):
        raise ParameterError(parameter, value, allowed)
    return found


def switch(value: bool | str, parameter: str) -> bool:
    """On or off."""
    known = {"on": True, "yes": True, "true": True, "1": True, "off": False, "no": False, "false": False, "0": False}
    found = value if isinstance(value, bool) else known.get(str(value).strip().lower())
    if found is None:
        raise ParameterError(parameter, value, '"on" or "off"')
    return found


def choice(*allowed: str) -> Convert:
    """One of some words."""

    def convert(value: str, parameter: str) -> str:
        if value not in allowed:
            raise ParameterError(parameter, value, " or ".join(f'"{word}"' for word in allowed))
        return value

    return convert


@dataclasses.dataclass(frozen=True)
class Layer:
    """A native backend or filter and its settings. ``a / b`` puts the filter `a` on the stack `b`."""

    name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = field.metadata["convert"](getattr(self, field.name), f"{self.name}:{field.name}")
            object.__setattr__(self, field.name, value)

    def native(self) -> Native:
        """A new native object with these settings."""
        raise NotImplementedError  # each layer has its own


@dataclasses.dataclass(frozen=True)
class Filter(Layer):
    """A layer that stands on others."""

    def __truediv__(self, below: Layer | Stack | Backend) -> Stack:
        """Put it on `below`."""
        from .stack import Stack

        return Stack((self,)) / below

    def parameters(self) -> dict[str, int]:
        """The settings as the native filter takes them."""
        return dataclasses.asdict(self)

    def native(self) -> NativeFilter:
        """The native filter of this name."""
        native = NativeFilter(self.name)
        native.set(**self.parameters())
        return native
