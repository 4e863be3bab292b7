"""Backends and filters by name: ours, and others' through the entry point group ``frontswap.backends``.

An entry point names a class: of a :class:`~frontswap.backends.Backend`, or of a layer. Its name is the name in specs.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import ParameterError, SpecError
from ..sizes import parse_size
from .contract import Backend
from .layers import Layer, switch

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

GROUP = "frontswap.backends"
OURS = {
    "active_only": "frontswap.backends.active_only:ActiveOnly",
    "checksum": "frontswap.backends.checksum:Checksum",
    "inject": "frontswap.backends.inject:Inject",
    "latency": "frontswap.backends.latency:Latency",
    "limit": "frontswap.backends.limit:Limit",
    "model": "frontswap.testing.model:Model",
    "null": "frontswap.backends.null:Null",
    "zcache": "frontswap.backends.zcache:Zcache",
}

Maker = type[Layer] | type[Backend]


def others() -> EntryPoints:
    """What others have installed."""
    from importlib.metadata import entry_points  # takes 40 ms to import, and is hardly ever asked

    return entry_points(group=GROUP)


def names() -> list[str]:
    """What a spec may name."""
    return sorted({*OURS, *(entry.name for entry in others())})


def find(name: str, part: str) -> Maker:
    """The class of a name; SpecError names the part of the spec and what there is."""
    if name in OURS:
        module, _, attribute = OURS[name].partition(":")
        made: Maker = getattr(import_module(module), attribute)
        return made
    for entry in others():
        if entry.name != name:
            continue
        loaded = entry.load()
        if not (isinstance(loaded, type) and issubclass(loaded, Layer | Backend)):
            raise SpecError(part, entry.value, f"a class of Backend (the entry point {name} of {GROUP})")
        return loaded
    raise SpecError(part, name, "one of " + ", ".join(names()))


def make(part: str) -> Layer | Backend:
    """A layer from one part of a spec: ``name`` or ``name:parameter=value,parameter=value``."""
    name, colon, rest = part.partition(":")
    maker = find(name.strip(), part)
    known = inspect.signature(maker).parameters
    allowed = ", ".join(known) or "nothing: it has no parameters"
    given: dict[str, Any] = {}
    for item in rest.split(",") if colon else []:
        key, equals, value = (text.strip() for text in item.partition("="))
        if not equals or not value:
            raise SpecError(part, item, f"parameter=value, with one of: {allowed}")
        if key not in known:
            raise SpecError(part, key, f"one of: {allowed}")
        if key in given:
            raise SpecError(part, item, f"given once: {key}")
        given[key] = value if issubclass(maker, Layer) else _converted(known[key], value, f"{name}:{key}")
    missing = [key for key, how in known.items() if how.default is how.empty and key not in given]
    if missing:
        raise SpecError(part, part, f"with {', '.join(f'{key}=' for key in missing)}")
    try:
        return maker(**given)
    except ParameterError as error:
        raise SpecError(error.parameter, error.given, error.allowed) from error


def _converted(parameter: inspect.Parameter, value: str, name: str) -> object:
    """A parameter of a backend in Python, by its annotation: int (sizes too), float, bool, else str."""
    kind = str(getattr(parameter.annotation, "__name__", parameter.annotation)).split(" ")[0]
    try:
        if kind == "int":
            return parse_size(value, name)
        if kind == "float":
            return float(value)
        if kind == "bool":
            return switch(value, name)
    except ParameterError as error:
        raise SpecError(error.parameter, error.given, error.allowed) from error
    except ValueError:
        raise SpecError(name, value, "a number") from None
    return value
