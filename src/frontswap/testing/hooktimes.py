"""What the hooks cost beside what is behind them: whole stores and loads, and the backend's part of them alone.

For measurements (bench/hooks.py). Both sides run in one process, without the GIL, on the same pages of one swap area
with the same bytes, in rounds that take turns; the clock is read once before and once after the pages of a round.

The whole: for each page what ``Areas.store`` and ``Areas.load`` do without the GIL: the area is entered, a context
taken, the page owned; its old copy is forgotten, the page offered to the backends and what changes is counted (the map
too); page, context and area are let go. Not in it: Python's call and its buffer.

The backend alone: for each page the backend's own forget and store, or its load, with one context for all. The pages
are owned before the clock is read and let go afterwards. They stay with the backend that has them, so the accounting of
the hooks stays right; the backend's counters of stores and loads, which the hooks keep, do not see these calls.

Nobody else may use the hooks meanwhile. The area's pages are all stored, in the one backend that there is, which has no
filters.
"""

import cython
from cython.cimports.frontswap.core.area import Areas
from cython.cimports.frontswap.core.areapages import area_enter, area_leave, area_load, area_store
from cython.cimports.frontswap.core.contexts import context_give, context_take
from cython.cimports.frontswap.core.layout import (
    KIND,
    NONE,
    OUT,
    RECORD_NONE,
    backend_p,
    context_p,
    holder,
    holder_change,
    pager_p,
)
from cython.cimports.frontswap.core.shed import page_own
from cython.cimports.frontswap.core.uapi import clock_ns, int64_t, load32, store32, uint8_t, uint32_t
from cython.cimports.libc.stdlib import calloc, free


def hooks_store(pg, number, data, pages):
    """Store `pages` pages through the hooks; how many of them the backend has not taken."""
    size: int64_t = cython.cast(int64_t, 1) << pg.blocks[number].shift
    failed: int64_t = 0
    i: int64_t
    for i in range(pages):
        if not area_enter(pg, number):
            return pages
        if area_store(pg, number, cython.cast(uint32_t, i), data + i * size) != 1:
            failed += 1
        area_leave(pg, number)
    return failed


def hooks_load(pg, number, into, pages):
    """Load `pages` pages through the hooks; how many of them did not come from the backend."""
    size: int64_t = cython.cast(int64_t, 1) << pg.blocks[number].shift
    failed: int64_t = 0
    error: cython.int = 0
    ctx: context_p
    i: int64_t
    for i in range(pages):
        if not area_enter(pg, number):
            return pages
        ctx = context_take(pg)
        if area_load(pg, ctx, number, cython.cast(uint32_t, i), 0, into + i * size, cython.address(error)) != 1:
            failed += 1
        context_give(ctx)
        area_leave(pg, number)
    return failed


def backend_store(pg, ctx, number, data, pages, states):
    """Forget and store owned pages, by the backend alone; how many it refused. `states`: their words, then the new."""
    b: backend_p = pg.stacks[0]
    size: int64_t = cython.cast(int64_t, 1) << pg.blocks[number].shift
    first: uint32_t = pg.blocks[number].first
    failed: int64_t = 0
    kind: uint32_t
    page: uint32_t
    i: int64_t
    for i in range(pages):
        page = first + cython.cast(uint32_t, i)
        kind = RECORD_NONE
        b.forget(b, pg, page, states[i])
        if b.store(b, pg, ctx, page, data + i * size, cython.address(kind)) != 0:
            failed += 1
        states[i] = OUT | kind
    return failed


def backend_load(pg, ctx, number, into, pages, states):
    """Load owned pages by the backend alone; how many it did not give back."""
    b: backend_p = pg.stacks[0]
    size: int64_t = cython.cast(int64_t, 1) << pg.blocks[number].shift
    first: uint32_t = pg.blocks[number].first
    failed: int64_t = 0
    i: int64_t
    for i in range(pages):
        ctx.into = into + i * size
        if b.load(b, pg, ctx, first + cython.cast(uint32_t, i), states[i], 0) != 0:
            failed += 1
    ctx.into = ctx.plain
    return failed


def backend_round(pg, number, data, into, pages, states, nanoseconds):
    """Own the pages, time the backend alone on them, let them go; how many failed."""
    ctx: context_p = context_take(pg)
    first: uint32_t = pg.blocks[number].first
    before: int64_t
    failed: int64_t
    i: int64_t
    for i in range(pages):
        states[i] = page_own(pg, first + cython.cast(uint32_t, i))
    before = clock_ns()
    if into == cython.NULL:
        failed = backend_store(pg, ctx, number, data, pages, states)
    else:
        failed = backend_load(pg, ctx, number, into, pages, states)
    nanoseconds[0] = clock_ns() - before
    for i in range(pages):
        if (states[i] & KIND) == RECORD_NONE:
            # Refused, and forgotten before: nobody has it any more.
            holder_change(pg, first + cython.cast(uint32_t, i), 0, -1)
            states[i] = NONE
        store32(cython.address(pg.pages[first + i].state), states[i])
    context_give(ctx)
    return failed


def alternate(pg, number, data, into, pages, states, times, rounds):
    """Run all rounds; how many pages failed. `times`: nanoseconds of the whole and of the backend, for each round."""
    before: int64_t
    failed: int64_t = 0
    r: int64_t
    turn: cython.int
    for r in range(rounds):
        for turn in range(2):
            if turn == (r & 1):  # each is the first one in every second round
                before = clock_ns()
                if into == cython.NULL:
                    failed += hooks_store(pg, number, data, pages)
                else:
                    failed += hooks_load(pg, number, into, pages)
                times[2 * r] = clock_ns() - before
            else:
                failed += backend_round(pg, number, data, into, pages, states, times + 2 * r + 1)
            if failed:
                return failed
    return 0


def measured(areas: Areas, type: object, address: object, rounds: object, loads: object) -> list[tuple[int, int]]:
    """Look at the arguments and run; see store() and load()."""
    pg: pager_p = areas.pager()
    number: uint32_t = type + 1
    data: cython.pointer(uint8_t) = cython.cast(cython.pointer(uint8_t), cython.cast(cython.size_t, address))
    into: cython.pointer(uint8_t) = data if loads else cython.NULL
    pages: int64_t = pg.blocks[number].pages
    first: uint32_t = pg.blocks[number].first
    n: int64_t = rounds
    times: cython.pointer(int64_t)
    failed: int64_t = 0
    i: uint32_t
    if not pg.blocks[number].live:
        raise ValueError(f"{type} is not the type of a swap area that is on")
    for i in range(pages):
        if holder(pg, first + i, load32(cython.address(pg.pages[first + i].state))) != 0:
            raise ValueError(f"page {i} is not in the first backend; store all pages before")
    times = cython.cast(cython.pointer(int64_t), calloc(2 * n + pages, cython.sizeof(int64_t)))
    if times == cython.NULL:
        raise MemoryError
    with cython.nogil:
        # Behind the times is room for the states.
        failed = alternate(
            pg, number, data, into, pages, cython.cast(cython.pointer(uint32_t), times + 2 * n), times, n
        )
    found = [(times[2 * i], times[2 * i + 1]) for i in range(n)]
    free(times)
    if failed:
        raise RuntimeError(f"{failed} pages were refused, or lost")
    return found


def store(areas: Areas, type: int, data: int, rounds: int) -> list[tuple[int, int]]:
    """Store all pages of an area anew in each round; `data`: address of their bytes, one page after the other.

    For each round the nanoseconds of all its pages: (the whole, the backend alone).
    """
    return measured(areas, type, data, rounds, False)


def load(areas: Areas, type: int, into: int, rounds: int) -> list[tuple[int, int]]:
    """Load all pages of an area in each round, to the address `into`; the nanoseconds as of store()."""
    return measured(areas, type, into, rounds, True)
