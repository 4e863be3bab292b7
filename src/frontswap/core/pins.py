"""Pins: pages that stay resident and writable, for the kernel, a device, or a program that protects them."""

import cython
from cython.cimports.frontswap.core.gate import gate_enter, gate_leave
from cython.cimports.frontswap.core.layout import (
    BUSY,
    DIRTY,
    HIGH_SHIFT,
    HOLES,
    MIN_PAGE,
    SPLIT,
    STATE,
    first_part,
    page_bytes,
    page_p,
    parts_of,
)
from cython.cimports.frontswap.core.pager import NO_MEMORY, RESOLVED, RETRY, SHUT, STRAY, pager_fault
from cython.cimports.frontswap.core.uapi import add64, backoff, cas32, int64_t, load32, store32, uint32_t, uint64_t


def pin_once(pg, page):
    """Pin a page if it is resident and writable: RESOLVED, RETRY if it is not, or NO_MEMORY."""
    size: int64_t = page_bytes(pg, page)
    p: page_p = cython.address(pg.pages[page])
    state: uint32_t = load32(cython.address(p.state))
    if (state & STATE) != DIRTY or (state & HOLES) != 0:
        return RETRY
    if (state >> HIGH_SHIFT) == 0xFFFF:
        return NO_MEMORY
    if not cas32(cython.address(p.state), state, BUSY):
        return RETRY
    # Taken page by page as they are pinned: two threads that pin at once do not both find room.
    if (state >> HIGH_SHIFT) == 0 and add64(cython.address(pg.pinned), size) + size > pg.budget // 2:
        add64(cython.address(pg.pinned), -size)
        store32(cython.address(p.state), state)
        return NO_MEMORY
    store32(cython.address(p.state), state + (cython.cast(uint32_t, 1) << HIGH_SHIFT))
    return RESOLVED


def pager_pin(pg, block, page):
    """Bring a page in, writable, and keep it resident, with all its parts if it is SPLIT; RESOLVED, or what the fault
    ended in.

    NO_MEMORY: more than half of the budget would be pinned.
    """
    address: uint64_t = block.base + (cython.cast(uint64_t, page - block.first) << block.shift)
    result: cython.int = RETRY
    while result == RETRY:
        result = pin_page(pg, address, page, 0)
        if result == RETRY:
            result = pin_parts(pg, address, page)
    return result


def pin_page(pg, address, page, whole):
    """pager_pin() of a page that is not SPLIT, or of a part of page `whole`; RETRY: that is not so any more."""
    result: cython.int
    turn: cython.int = 0
    changed: cython.bint
    while True:
        result = pager_fault(pg, address, True)
        if result < 0:
            return result
        if result == SHUT:
            return STRAY
        gate_enter(pg)
        result = pin_once(pg, page)
        changed = (load32(cython.address(pg.pages[whole if whole else page].state)) & STATE) == SPLIT
        gate_leave(pg)
        # Once pinned it stays what it is.
        if result != RETRY or changed != (whole != 0):
            return result
        backoff(turn)
        turn += 1


def pin_parts(pg, address, page):
    """pager_pin() of a page that is SPLIT: all its parts, or none; RETRY: it has become whole."""
    first: uint32_t
    i: uint32_t = 0
    count: uint32_t
    result: cython.int = RESOLVED
    gate_enter(pg)
    first = first_part(pg, page)
    count = parts_of(pg, page)
    gate_leave(pg)
    if first == 0:
        return RETRY
    while i < count:
        result = pin_page(pg, address + i * MIN_PAGE, first + i, page)
        if result != RESOLVED:
            break
        i += 1
    while result != RESOLVED and i > 0:
        i -= 1
        unpin_once(pg, first + i)
    return result


def pager_unpin(pg, page):
    """End of pager_pin()."""
    i: uint32_t
    state: uint32_t
    turn: cython.int = 0
    gate_enter(pg)
    state = load32(cython.address(pg.pages[page].state))
    # One that is SPLIT is owned for a moment by who drops its parts, or asks whether they are zeros: it is no page then
    # that has a pin of its own.
    while (state & STATE) == BUSY:
        backoff(turn)
        turn += 1
        state = load32(cython.address(pg.pages[page].state))
    gate_leave(pg)
    if (state & STATE) == SPLIT:
        for i in range(parts_of(pg, page)):
            unpin_once(pg, first_part(pg, page) + i)
    else:
        unpin_once(pg, page)


def unpin_once(pg, page):
    """pager_unpin() of a page that is not SPLIT."""
    p: page_p = cython.address(pg.pages[page])
    state: uint32_t
    turn: cython.int = 0
    gate_enter(pg)
    while True:
        state = load32(cython.address(p.state))
        if (state & STATE) != BUSY and cas32(cython.address(p.state), state, BUSY):
            break
        backoff(turn)
        turn += 1
    if (state & STATE) == DIRTY and (state >> HIGH_SHIFT) != 0:
        state -= cython.cast(uint32_t, 1) << HIGH_SHIFT
        if (state >> HIGH_SHIFT) == 0:
            add64(cython.address(pg.pinned), -cython.cast(int64_t, page_bytes(pg, page)))
    store32(cython.address(p.state), state)
    gate_leave(pg)
