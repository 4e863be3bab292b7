"""Sizes as people write them: ``"512M"``, ``"2GiB"``, ``"1.5G"``. Units are binary: K is 1024 bytes."""

from __future__ import annotations

import re
from fractions import Fraction
from operator import index

from .errors import ParameterError

MIN_PAGE = 4096
MAX_PAGE = 2 << 20
_UNITS = "KMGTPE"
_SIZE = re.compile(rf"(\d+(?:\.\d+)?|\.\d+)\s*(?:([{_UNITS}])(?:i?B)?|B)?", re.IGNORECASE | re.ASCII)
_LARGEST = 2**63 - 1
_ALLOWED = 'a size in bytes, such as 1048576, "64k", "512M", "1.5G" or "2GiB" (binary units), at most 8 EiB - 1'


def parse_size(value: int | str, parameter: str) -> int:
    """Return the bytes that value means. Whatever else it is is a ParameterError that names the parameter."""
    size = _bytes_of(value)
    if size is None or not 0 <= size <= _LARGEST:
        raise ParameterError(parameter, value, _ALLOWED)
    return size


def parse_page(value: int | str, also: str = "") -> int:
    """Return the bytes of a page: a power of two. ``also``: what else the parameter may be, for the error."""
    size = parse_size(value, "page")
    if size < MIN_PAGE or size > MAX_PAGE or size & (size - 1):
        raise ParameterError("page", value, f"{also}a power of two from 4096 to 2 MiB")
    return size


def _bytes_of(value: object) -> int | None:
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            return None
        number, unit = match.groups()
        # fractions, not floats: "8191.9999P" must not become more bytes than were asked for
        return int(Fraction(number) * (1024 ** (_UNITS.index(unit.upper()) + 1) if unit else 1))
    if isinstance(value, bool):
        return None
    try:
        return index(value)  # type: ignore[arg-type]  # any integer, NumPy's too
    except TypeError:
        return None


def format_size(n: int) -> str:
    """Return n bytes for people: three significant digits, exact when n is a whole number of its unit."""
    if n < 0:
        return f"-{format_size(-n)}"
    exponent = min(max(n.bit_length() - 1, 0) // 10, len(_UNITS))
    if exponent == 0:
        return f"{n} B"
    whole, rest = divmod(n, unit := 1024**exponent)
    if rest == 0 or whole >= 100:
        text = str(round(n / unit)) if rest else str(whole)
    else:
        text = f"{n / unit:.{1 if whole >= 10 else 2}f}"
    return f"{text} {_UNITS[exponent - 1]}iB"
