"""Pages of swap areas by arrays of their offsets: what of the hooks' interface is NumPy's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .area import MOST_PAGES
from .errors import ParameterError

if TYPE_CHECKING:
    from .core.area import Areas, ReadableBuffer, WriteableBuffer

#: for each page, see `Frontswap.store_many`, `load_many` and `invalidate_many`
Results = npt.NDArray[np.int32]


def _offsets(offsets: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """A copy of our own: what the caller does to his array meanwhile must not move a page."""
    at = np.atleast_1d(np.asarray(offsets))
    if at.ndim != 1 or (at.size and at.dtype.kind not in "iu"):
        raise ParameterError("offsets", f"{at.dtype} of shape {at.shape}", "a sequence of whole numbers")
    if at.size and (at.min() < 0 or at.max() >= MOST_PAGES):
        raise ParameterError("offsets", int(at.min() if at.min() < 0 else at.max()), "pages of the area")
    return np.array(at, np.uint32, copy=True, order="C")


def store_many(core: Areas, type: int, serial: int, offsets: npt.ArrayLike, pages: ReadableBuffer) -> Results:
    """Store pages, see `Frontswap.store_many`."""
    at = _offsets(offsets)
    order = np.argsort(at, kind="stable")
    ascending = at[order]
    if len(at) and (ascending[1:] == ascending[:-1]).any():
        raise ParameterError("offsets", "one of them twice", "different: the last of two stores would be a guess")
    results = np.zeros(len(at), np.int32)
    core.store_many(type, serial, at, order, pages, results)
    return results


def load_many(core: Areas, type: int, serial: int, offsets: npt.ArrayLike, into: WriteableBuffer) -> Results:
    """Load pages, see `Frontswap.load_many`."""
    at = _offsets(offsets)
    results = np.zeros(len(at), np.int32)
    core.load_many(type, serial, at, into, results)
    return results


def invalidate_many(core: Areas, type: int, serial: int, offsets: npt.ArrayLike) -> Results:
    """Invalidate pages, see `Frontswap.invalidate_many`."""
    at = _offsets(offsets)
    results = np.zeros(len(at), np.int32)
    core.invalidate_many(type, serial, at, results)
    return results


def map_of(core: Areas, type: int, serial: int, pages: int) -> npt.NDArray[np.bool_]:
    """Which of the `pages` of an area a backend has."""
    bits = np.frombuffer(core.map_bits(type, serial), np.uint8)
    found: npt.NDArray[np.bool_] = np.unpackbits(bits, count=pages, bitorder="little").view(np.bool_)
    return found
