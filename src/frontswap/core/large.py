"""What is large: the arena that large requests of the whole process come from, and how large those are."""

import cython
from cython.cimports.frontswap.core.uapi import int64_t, load64, store64, uint64_t


def is_large(n):
    """True if a request of `n` bytes is ours."""
    least: int64_t = load64(cython.address(heap_from))
    return least != 0 and cython.cast(uint64_t, least) <= n and (n >> MOST_SHIFT) == 0


def is_ours(at):
    """True if a pointer is of the arena."""
    return heap_base <= cython.cast(uint64_t, at) < heap_end


def heap_begin(pg):
    """The arena of the heap is this one's, for good."""
    global heap, heap_base, heap_end
    heap_base = pg.base
    heap_end = pg.base + pg.size
    heap = pg


def heap_threshold(n):
    """Requests from so many bytes on; 0: no more of them."""
    store64(cython.address(heap_from), n)
