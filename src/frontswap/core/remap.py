"""mremap(2) of what the program has mapped, and is ours."""

import cython
from cython.cimports.frontswap.core.arena import (
    GROWING,
    LOOSE,
    MAPPED,
    NO_ADDRESSES,
    arena_allocate,
    arena_resize,
)
from cython.cimports.frontswap.core.large import heap
from cython.cimports.frontswap.core.layout import block_p
from cython.cimports.frontswap.core.maps import is_fixed, is_mapped, is_zeros, map_drop, next_map, whole
from cython.cimports.frontswap.core.pieces import PIECE
from cython.cimports.frontswap.core.uapi import EINVAL, ENOMEM, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy

AUTO = cython.declare(cython.int, -1)


def any_fixed(number, low, high):
    """True if some piece of a part of an array is protected."""
    block: block_p = cython.address(heap.blocks[number])
    page: uint64_t
    if block.marked:
        for page in range((low - block.base) >> block.shift, ((high - 1 - block.base) >> block.shift) + 1):
            if is_fixed(block, page, low, high):
                return True
    return False


def copy_pages(block, to, address, n):
    """Copy to memory that reads as zeros; what was never touched of a mapping without a reservation stays so."""
    at: uint64_t = address
    stop: uint64_t
    page: uint64_t
    while at < address + n:
        page = (at - block.base) >> block.shift
        stop = min(address + n, block.base + ((page + 1) << block.shift))
        if not is_zeros(heap, block, page):
            memcpy(cython.cast(cython.p_void, to + (at - address)), cython.cast(cython.p_void, at), stop - at)
        at = stop


def map_move(address, old, new, flags, error):
    """mremap(2) of a mapping, or a part of one; NULL and `*error` when it is refused."""
    at: uint64_t = address
    low: uint64_t = 0
    high: uint64_t = 0
    number: uint32_t = next_map(cython.address(at), address + whole(old), cython.address(low), cython.address(high))
    block: block_p = cython.address(heap.blocks[number])
    how: cython.int
    moved: uint64_t
    error[0] = EINVAL
    if (
        (flags & ~cython.cast(cython.int, MREMAP_MAYMOVE)) != 0
        or old == 0
        or new == 0
        or address % PIECE != 0
        or not is_mapped(address, whole(old))
        or low != address
        or high != address + whole(old)
        or any_fixed(number, low, high)
    ):
        return cython.NULL
    old = whole(old)
    new = whole(new)
    if new < old:
        error[0] = map_drop(address + new, old - new)
        return cython.cast(cython.p_void, address) if error[0] == 0 else cython.NULL
    if new == old:
        return cython.cast(cython.p_void, address)
    error[0] = ENOMEM
    if block.reserved:
        return cython.NULL
    if low == block.base and high == block.base + whole(block.bytes) and not block.marked:
        if arena_resize(heap, address, new):
            return cython.cast(cython.p_void, address)
    if (flags & MREMAP_MAYMOVE) == 0:
        return cython.NULL
    how = MAPPED | (LOOSE if block.loose else 0)
    moved = arena_allocate(heap, new, heap.page, 0, AUTO, how | GROWING, error)
    if moved == 0 and error[0] == NO_ADDRESSES:
        moved = arena_allocate(heap, new, heap.page, 0, AUTO, how, error)
    if moved == 0:
        error[0] = ENOMEM
        return cython.NULL
    copy_pages(block, moved, address, old)
    map_drop(address, old)
    return cython.cast(cython.p_void, moved)
