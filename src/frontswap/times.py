"""Durations as people write them: ``"250us"``, ``"10ms"``, ``"1.5s"``, ``"2min"``; a number is seconds."""

from __future__ import annotations

import re
from fractions import Fraction

from .errors import ParameterError

_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ns|us|ms|s|min|h|)", re.ASCII)
_ALLOWED = 'a duration of 0 to 365 days, such as 0.5 (seconds), "250us", "10ms", "1.5s" or "2min"'
_LONGEST = 365 * 24 * 3600 * 10**9


class Nanoseconds(int):
    """A duration that has been parsed already."""


def parse_duration(value: float | str, parameter: str) -> Nanoseconds:
    """Return the nanoseconds that value means. Whatever else it is is a ParameterError that names the parameter."""
    if isinstance(value, Nanoseconds):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ParameterError(parameter, value, _ALLOWED)
    match = _DURATION.fullmatch(str(value).strip())
    if match is not None:
        duration = int(Fraction(match[1]) * _UNITS[match[2]])
    elif isinstance(value, float) and 0 <= value < _LONGEST / 10**9:  # 1e-07
        duration = int(value * 10**9)
    else:
        raise ParameterError(parameter, value, _ALLOWED)
    if duration > _LONGEST:
        raise ParameterError(parameter, value, _ALLOWED)
    return Nanoseconds(duration)


def format_duration(nanoseconds: int) -> str:
    """Return nanoseconds for people, in the largest unit that leaves a whole number."""
    for unit in ("h", "min", "s", "ms", "us"):
        if nanoseconds and nanoseconds % _UNITS[unit] == 0:
            return f"{nanoseconds // _UNITS[unit]}{unit}"
    return f"{nanoseconds}ns"
