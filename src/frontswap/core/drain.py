"""Draining: pages leave a backend that goes (the kernel's never could), and shrink, the partial swapoff.

What a swap area's backend had goes to the slots. Behind the memory door a page that is resident gives its copy up, and
one that is out goes to the swap file; shrink brings it back into RAM, if there is room without evicting others.
"""

import cython
from cython.cimports.frontswap.core.contexts import work_enter, work_leave
from cython.cimports.frontswap.core.evict import dirty_word, evict_clean, uncharge
from cython.cimports.frontswap.core.frontswap import frontswap_evacuate, frontswap_invalidate_page, page_poison
from cython.cimports.frontswap.core.layout import (
    BUSY,
    CLEAN,
    KIND,
    MAX_STACKS,
    OUT,
    RECORD,
    RECORD_LOG,
    REF,
    STATE,
    block_p,
    context_p,
    holder,
    is_kept_out,
    page_address,
    page_bytes,
    page_p,
)
from cython.cimports.frontswap.core.pager import RESOLVED, bring_in
from cython.cimports.frontswap.core.reclaim import BRIEF, charge
from cython.cimports.frontswap.core.region import region_allow
from cython.cimports.frontswap.core.uapi import (
    ENOSPC,
    backoff,
    cas32,
    clock_ns,
    int64_t,
    load32,
    load64,
    store32,
    uint32_t,
)
from cython.cimports.frontswap.core.uffd import die


def pages_in_backends(pg):
    """Pages that any backend has (frontswap_curr_pages)."""
    total: int64_t = 0
    i: cython.int
    for i in range(MAX_STACKS):
        total += load64(cython.address(pg.stack_pages[i]))
    return total


def spans(pg):
    """How many stretches of pages there are to look at: areas are far apart, each with room to grow; arrays are not."""
    return 1 if pg.areas == cython.NULL else pg.used_blocks


def span(pg, i, end):
    """The first page of a stretch, i from 1 on, and one more than its last."""
    if pg.areas == cython.NULL:
        end[0] = last_page(pg)
        return 1
    end[0] = pg.blocks[i].first
    if load32(cython.address(pg.blocks[i].live)) == 1:
        end[0] += load32(cython.address(pg.blocks[i].pages))
    return pg.blocks[i].first


def last_page(pg):
    """One more than the highest page in use."""
    last: uint32_t = 0
    i: uint32_t
    block: block_p
    for i in range(1, pg.used_blocks + 1):
        block = cython.address(pg.blocks[i])
        if load32(cython.address(block.live)) == 1 or block.whole:
            last = max(last, block.first + block.pages)
    return min(last, pg.max_pages)


def drain_page(pg, ctx, page, number):
    """Have one page leave stack `number`; 1 if it has, 0 if it was not there, or -errno of its slot."""
    p: page_p = cython.address(pg.pages[page])
    state: uint32_t
    kind: uint32_t = 0
    error: cython.int = 0
    turn: cython.int = 0
    while True:
        state = load32(cython.address(p.state))
        if (state & STATE) == BUSY:
            backoff(turn)
            turn += 1
            continue
        if (state & RECORD) == 0 or holder(pg, page, state) != number:
            return 0
        if cas32(cython.address(p.state), state, BUSY):
            break
    if holder(pg, page, state) != number:  # `where` belongs to the owner: now it can be trusted
        store32(cython.address(p.state), state)
        return 0
    if pg.areas == cython.NULL and pg.file < 0 and (state & KIND) == RECORD_LOG:
        # Nowhere to go; and a page that gives its copy up could not leave RAM any more.
        store32(cython.address(p.state), state)
        return -ENOSPC
    if (state & STATE) == CLEAN and is_kept_out(pg, page):
        # Dirty it could not leave RAM, hidden as it is: it leaves now, and its copy goes on. That is never refused, for
        # on the side of protection nothing is reserved.
        evict_clean(pg, cython.address(page), cython.address(state), 1)
        return drain_page(pg, ctx, page, number)
    if (state & STATE) == CLEAN:
        frontswap_invalidate_page(pg, page, state)
        error = region_allow(pg, page_address(pg, page), page_bytes(pg, page), True)
        if error:
            die("write protection", error)
        store32(cython.address(p.state), dirty_word(state))
        return 1
    if (state & STATE) != OUT:
        frontswap_invalidate_page(pg, page, state)  # poisoned: its copy is of no use to anybody
        store32(cython.address(p.state), state & ~cython.cast(uint32_t, RECORD))
        return 1
    error = frontswap_evacuate(pg, ctx, page, state, cython.address(kind))
    if error < 0:
        frontswap_invalidate_page(pg, page, state)
        page_poison(pg, page)
        return 1
    if error > 0:
        store32(cython.address(p.state), state)
        return -error
    store32(cython.address(p.state), (state & ~cython.cast(uint32_t, RECORD)) | kind)
    return 1


def drain_pass(pg, number, until):
    """Once over all pages; how many have left stack `number`. Ends at `until` (fs_clock).

    A page that no slot takes is left for the next pass: its area may have none, and others do.
    """
    ctx: context_p
    page: uint32_t
    first: uint32_t
    end: uint32_t = 0
    i: uint32_t
    done: int64_t = 0
    got: cython.int
    for i in range(1, spans(pg) + 1):
        first = span(pg, i, cython.address(end))
        for page in range(first, end):
            ctx = work_enter(pg)
            got = drain_page(pg, ctx, page, number)
            work_leave(pg, ctx)
            if (got != 0 or page % 64 == 0) and clock_ns() > until:
                return done
            if got > 0:
                done += got
            if got and load64(cython.address(pg.stack_pages[number])) == 0:
                return done
    return done


def pull_back(pg, ctx, page):
    """Memory door: bring a page that a backend has into RAM, where it is dirty; 1, 0: not this one, -1: no room."""
    p: page_p = cython.address(pg.pages[page])
    state: uint32_t = load32(cython.address(p.state))
    own: context_p = ctx
    size: int64_t
    if (state & STATE) != OUT or holder(pg, page, state) < 0:
        return 0
    size = page_bytes(pg, page)
    if load64(cython.address(pg.used)) + size > pg.budget - pg.low or charge(pg, cython.address(own), size, BRIEF) != 0:
        return -1
    if not cas32(cython.address(p.state), state, BUSY):
        uncharge(pg, size)
        return 0
    if page_bytes(pg, page) != size or holder(pg, page, state) < 0 or is_kept_out(pg, page):
        uncharge(pg, size)
        store32(cython.address(p.state), state)
        return 0
    # Readahead's kind of bringing in: an error is left to who reads the page.
    return 1 if bring_in(pg, ctx, page, state & ~cython.cast(uint32_t, REF), True, 0, True) == RESOLVED else 0


def shrink_to(pg, target, until):
    """Reduce the pages in backends to `target`, as far as there is room for them elsewhere; how many have left."""
    ctx: context_p
    page: uint32_t
    first: uint32_t
    end: uint32_t = 0
    i: uint32_t
    done: int64_t = 0
    got: cython.int = 0
    state: uint32_t
    number: cython.int
    for i in range(1, spans(pg) + 1):
        first = span(pg, i, cython.address(end))
        for page in range(first, end):
            if pages_in_backends(pg) <= target or ((got != 0 or page % 64 == 0) and clock_ns() > until):
                return done
            state = load32(cython.address(pg.pages[page].state))
            if (state & STATE) != OUT or (state & RECORD) == 0:
                continue
            number = holder(pg, page, state)
            if number < 0 or number >= MAX_STACKS:
                continue
            ctx = work_enter(pg)
            got = pull_back(pg, ctx, page) if pg.areas == cython.NULL else drain_page(pg, ctx, page, number)
            work_leave(pg, ctx)
            if got < 0 and pg.areas == cython.NULL:
                return done  # RAM is full: for the others too
            if got > 0:
                done += got
    return done
