# cython: annotation_typing=False
"""NumPy's arrays as the policies index them: C pointers where compiled, memoryviews of Python's ints where not.

The pointer does not keep the array: who asks for it does.
"""

from __future__ import annotations

from typing import Any

import cython


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
