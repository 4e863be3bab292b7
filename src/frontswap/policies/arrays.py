# cython: annotation_typing=False
"""NumPy's arrays as the policies index them: C pointers where compiled, memoryviews of Python's ints where not.

The pointer does not keep the array: who asks for it does.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import cython
import numpy as np

NORESERVE = 0x4000  # MAP_NORESERVE: Python has the name since 3.13
_apart: ContextVar[int] = ContextVar("apart", default=0)


@contextmanager
def apart(*, inherited: bool) -> Iterator[None]:
    """Policies that are made in here are a pool's.

    It has them know more pages than it ever has, so their arrays take RAM for what is used of them, and not for huge
    pages of it. In front of swap areas they are mapped in a way (MAP_SHARED) that `frontswap run` leaves to the kernel:
    the threads of the pool must not fault in an arena. A forked child does not have the pool. It has a Memory's
    (`inherited`), and needs arrays of its own; `frontswap run` takes no policy there.
    """
    token = _apart.set(mmap.MAP_PRIVATE if inherited else mmap.MAP_SHARED)
    try:
        yield
    finally:
        _apart.reset(token)


def zeros(count: int, dtype: Any) -> Any:
    """An array of zeros, for a policy."""
    how = _apart.get()
    if not how:
        return np.zeros(count, dtype)
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, size, how | mmap.MAP_ANONYMOUS | NORESERVE), dtype)


def words(array: Any) -> memoryview[int]:
    """The items of a contiguous array of uint32."""
    if cython.compiled:
        view = cython.declare(cython.const[cython.uint][::1], array)
        return cython.cast(cython.pointer(cython.uint), cython.address(view[0]))  # type: ignore[no-any-return]
    else:  # noqa: RET505  # Cython warns of what it cannot reach
        return memoryview(array)


def octets(array: Any) -> memoryview[int]:
    """The items of a contiguous array of uint8."""
    if cython.compiled:
        view = cython.declare(cython.const[cython.uchar][::1], array)
        return cython.cast(cython.pointer(cython.uchar), cython.address(view[0]))  # type: ignore[no-any-return]
    else:  # noqa: RET505
        return memoryview(array)
