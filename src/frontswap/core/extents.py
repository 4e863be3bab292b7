"""Extents: free ranges of addresses and of ids, sorted, first fit. Under arena_lock."""

import cython
from cython.cimports.frontswap.core.uapi import uint32_t, uint64_t
from cython.cimports.libc.string import memmove


def extent_insert(e, at, start, count):
    """Open a place in the table."""
    memmove(cython.address(e.start[at + 1]), cython.address(e.start[at]), (e.n - at) * 8)
    memmove(cython.address(e.count[at + 1]), cython.address(e.count[at]), (e.n - at) * 8)
    e.start[at] = start
    e.count[at] = count
    e.n += 1


def extent_remove(e, at):
    """Close a place in the table."""
    e.n -= 1
    memmove(cython.address(e.start[at]), cython.address(e.start[at + 1]), (e.n - at) * 8)
    memmove(cython.address(e.count[at]), cython.address(e.count[at + 1]), (e.n - at) * 8)


def extent_take(e, count, align):
    """Take `count` units at a multiple of `align`, the lowest that are free; their start, or NOWHERE."""
    i: uint32_t
    start: uint64_t
    lead: uint64_t
    tail: uint64_t
    for i in range(e.n):
        start = (e.start[i] + align - 1) // align * align
        lead = start - e.start[i]
        if e.count[i] < lead + count:
            continue
        tail = e.count[i] - lead - count
        if lead and tail:
            if e.n == e.capacity:
                return NOWHERE
            extent_insert(e, i + 1, start + count, tail)
            e.count[i] = lead
        elif lead:
            e.count[i] = lead
        elif tail:
            e.start[i] = start + count
            e.count[i] = tail
        else:
            extent_remove(e, i)
        return start
    return NOWHERE


def extent_give(e, start, count):
    """Give units back, joined with their neighbours; False if the table is full (they are lost then)."""
    low: uint32_t = 0
    high: uint32_t = e.n
    middle: uint32_t
    before: cython.bint
    after: cython.bint
    while low < high:
        middle = (low + high) // 2
        if e.start[middle] < start:
            low = middle + 1
        else:
            high = middle
    before = low > 0 and e.start[low - 1] + e.count[low - 1] == start
    after = low < e.n and start + count == e.start[low]
    if before and after:
        e.count[low - 1] += count + e.count[low]
        extent_remove(e, low)
    elif before:
        e.count[low - 1] += count
    elif after:
        e.start[low] = start
        e.count[low] += count
    else:
        if e.n == e.capacity:
            return False
        extent_insert(e, low, start, count)
    return True
