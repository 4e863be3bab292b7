"""Where the program may look in its mappings: system calls end there as the kernel's own do, with EFAULT."""

import cython
from cython.cimports.frontswap.core.large import heap
from cython.cimports.frontswap.core.layout import block_p
from cython.cimports.frontswap.core.maps import next_map
from cython.cimports.frontswap.core.pieces import CLOSED, ENDED, HIDDEN, OPEN, PIECE, piece_kind
from cython.cimports.frontswap.core.uapi import (
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    madvise,
    uint32_t,
    uint64_t,
)


def may_touch(at, write):
    """True if the kernel lets the program in to a piece that is there, or is not ours. A kernel that cannot be asked
    (before 5.14) says so of what is ours; then a touch will tell.
    """
    advice: cython.int = MADV_POPULATE_WRITE if write else MADV_POPULATE_READ
    known: uint64_t = cython.cast(uint64_t, cython.address(advice)) & ~cython.cast(uint64_t, PIECE - 1)
    return (
        madvise(cython.cast(cython.p_void, at), PIECE, advice) == 0
        or madvise(cython.cast(cython.p_void, known), PIECE, MADV_POPULATE_READ) != 0
    )


def map_reach(address, n, write):
    """How many bytes from an address on the program may read, or write: what a system call can move.

    Another thread may protect them while it does: then it is SIGSEGV, which the kernel would have had as EFAULT.
    """
    at: uint64_t = address
    low: uint64_t = 0
    high: uint64_t = 0
    number: uint32_t
    block: block_p
    kind: uint32_t
    while True:
        number = next_map(cython.address(at), address + n, cython.address(low), cython.address(high))
        if number == 0:
            return n
        block = cython.address(heap.blocks[number])
        while block.marked and low < high:
            kind = piece_kind(heap, low)
            if block.reserved and (kind == CLOSED or kind == HIDDEN or kind == ENDED):
                return low - address
            if kind != OPEN and kind != CLOSED and kind != ENDED:
                if not may_touch(low & ~cython.cast(uint64_t, PIECE - 1), write):
                    return low - address
            low = (low & ~cython.cast(uint64_t, PIECE - 1)) + PIECE
