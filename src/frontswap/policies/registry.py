"""Policies by name. A new one is a file here (with its declarations beside it) and a line in OURS."""

from __future__ import annotations

from importlib import import_module

from ..errors import ParameterError
from .contract import Policy

OURS = {
    "fifo": "Fifo",
    "clock": "Clock",
    "lru": "Lru",
    "sieve": "Sieve",
    "s3fifo": "S3Fifo",
    "arc": "Arc",
    "lirs": "Lirs",
    "duel": "Duel",
    "belady": "Belady",
}


def names() -> list[str]:
    """What there is, from the plainest to the optimum."""
    return list(OURS)


def find(name: str) -> type[Policy]:
    """The class of a name: ``find("lru")(pages, capacity)``. ParameterError says which there are."""
    if name not in OURS:
        raise ParameterError("policy", name, "one of " + ", ".join(OURS))
    made: type[Policy] = getattr(import_module(f"{__package__}.{name}"), OURS[name])
    return made
