# cython: annotation_typing=False
"""NumPy's arrays as the policies index them: C pointers where compiled, memoryviews of Python's ints where not.

The pointer does not keep the array: who asks for it does.
"""

from __future__ import annotations

import mmap
from typing import Any

import cython
import numpy as np

LARGE = 64 << 20  # bytes; NumPy asks for huge pages, each of which is RAM as soon as one of its bytes is used
NORESERVE = 0x4000  # MAP_NORESERVE: Python has the name since 3.13


def zeros(count: int, dtype: Any) -> Any:
    """An array of zeros. Of a large one, RAM is what is used: a pool has a policy know more pages than it ever has."""
    size = count * np.dtype(dtype).itemsize
    if size < LARGE:
        return np.zeros(count, dtype)
    return np.frombuffer(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE), dtype)


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
