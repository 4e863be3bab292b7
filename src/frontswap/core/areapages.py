"""What is done with the bytes of a page of a swap area: own it, and store, load, change or drop it.

The page protocol of layout.pxd without the resident states: NONE (never stored: reads as zeros), OUT (in a backend, in
its slot, or both), GONE, POISON, and BUSY while one thread works on it. Who wants a page that is BUSY waits, holding
nothing but a context, and never the GIL: the owner may need it for a backend in Python.
"""

import cython
from cython.cimports.frontswap.core.contexts import context_give, context_take
from cython.cimports.frontswap.core.frontswap import (
    IN_BACKEND,
    IN_SLOT,
    frontswap_invalidate_page,
    frontswap_load,
    frontswap_promote,
    frontswap_store,
    page_poison,
)
from cython.cimports.frontswap.core.layout import (
    GONE,
    KIND,
    NONE,
    OUT,
    RECORD_LOG,
    REF,
    SLOT,
    STATE,
    area_p,
    block_p,
    context_p,
    holder,
    page_bytes,
)
from cython.cimports.frontswap.core.packing import page_quicken
from cython.cimports.frontswap.core.record import LOAD_BACKEND
from cython.cimports.frontswap.core.shares import is_shared
from cython.cimports.frontswap.core.shed import page_own, pool_make_room
from cython.cimports.frontswap.core.swapfile import area_slot_zero
from cython.cimports.frontswap.core.uapi import (
    EIO,
    ENOSPC,
    int32_t,
    int64_t,
    load32,
    loadi,
    store32,
    uint32_t,
    uint64_t,
)
from cython.cimports.libc.string import memcpy, memset


def store_owned(pg, ctx, number, page, state, data):
    """Store an owned page and let go of it; 1 in a backend, 0 in its slot, -errno: it is lost.

    -errno - IN_BACKEND_STILL: its slot was to be written (writethrough) and could not; the backend has it.
    """
    kind: uint32_t = 0
    result: cython.int
    pg.pages[page].block = number  # a page learns its area at its first store: an unused one costs nothing
    result = frontswap_store(pg, ctx, page, data, state, cython.address(kind))
    if (
        (state & SLOT) != 0
        and (kind & SLOT) == 0
        and pg.areas[number].zeroing
        and not loadi(cython.address(pg.writethrough))
    ):
        # Nobody reads that slot any more: its room goes back. That it does not is no error of the page's. (Written
        # through, it could not be written. What it has may be flushed: it is what a restart is to find.)
        area_slot_zero(cython.address(pg.areas[number]), ctx, page - pg.blocks[number].first, page_bytes(pg, page))
    if kind:
        store32(cython.address(pg.pages[page].state), OUT | kind)
        if result < 0:
            return result - IN_BACKEND_STILL
    else:
        # Nobody has it: neither the bytes of before nor zeros may be the answer from now on.
        page_poison(pg, page)
    if result < 0:
        return result
    return 1 if result == IN_BACKEND else 0 if result == IN_SLOT else -ENOSPC


def area_replace(pg, ctx, number, offset, data):
    """Store a whole page of an area; see store_owned()."""
    page: uint32_t = pg.blocks[number].first + offset
    if pg.policy.of != cython.NULL or is_shared(pg):
        pool_make_room(pg, ctx, number, page, 1)
    return store_owned(pg, ctx, number, page, page_own(pg, page), data)


def area_store(pg, number, offset, data):
    """frontswap_store for a page of an area; see store_owned()."""
    ctx: context_p = context_take(pg)
    result: cython.int = area_replace(pg, ctx, number, offset, data)
    context_give(ctx)
    return result


def load_owned(pg, ctx, number, page, state, more, into, error):
    """Bring an owned page's bytes into `into`; 1, 0, or -1 with `*error` as of area_load().

    `*state`: the word that it had, and that it is to have. `more`: see record_get(). After -1 the page has been let go
    of.
    """
    held: cython.bint = False
    error[0] = 0
    if (state[0] & STATE) == NONE:
        memset(into, 0, cython.cast(cython.size_t, 1) << pg.blocks[number].shift)
        return 0
    if (state[0] & STATE) != OUT:
        error[0] = LOAD_GONE if (state[0] & STATE) == GONE else LOAD_POISONED
        store32(cython.address(pg.pages[page].state), state[0])
        return -1
    held = holder(pg, page, state[0]) >= 0
    ctx.into = into
    error[0] = frontswap_load(pg, ctx, page, state[0], more)
    ctx.into = ctx.plain
    if error[0] and held and not ctx.from_slot:
        # Its backend has lost it, or gives back what is not it. (An error of the slot may pass: that page stays.)
        if error[0] > 0:
            error[0] = LOAD_BACKEND
        frontswap_invalidate_page(pg, page, state[0])
        page_poison(pg, page)
        return -1
    if error[0]:
        store32(cython.address(pg.pages[page].state), state[0])
        return -1
    held = held and not ctx.from_slot
    if held and loadi(cython.address(pg.exclusive)):
        frontswap_invalidate_page(pg, page, state[0])
        state[0] = OUT | SLOT if (state[0] & SLOT) != 0 else GONE
    elif held and is_shared(pg) and (state[0] & KIND) == RECORD_LOG:
        state[0] = state[0] | REF
    return 1 if held else 0


def area_load(pg, ctx, number, offset, more, into, error):
    """frontswap_load for a page of an area: 1 from a backend, 0 from its slot or never stored, -1 with `*error`.

    `more`: how many pages after it are wanted next.
    """
    page: uint32_t = pg.blocks[number].first + offset
    state: uint32_t = page_own(pg, page)
    result: cython.int = load_owned(pg, ctx, number, page, cython.address(state), more, into, error)
    if result > 0:
        page_quicken(pg, ctx, page, state)
    if result >= 0:
        store32(cython.address(pg.pages[page].state), state)
    return result


def area_update(pg, ctx, number, offset, within, length, data):
    """Replace the bytes [within, within + length) of a page, by zeros if `data` is NULL; as area_store().

    The page is owned from its load to its store: of two updates at once neither loses the other's bytes. -errno: what
    it had before cannot be read, and the page is as it was; or it cannot be stored.
    """
    page: uint32_t = pg.blocks[number].first + offset
    state: uint32_t
    error: cython.int = 0
    if pg.policy.of != cython.NULL or is_shared(pg):
        pool_make_room(pg, ctx, number, page, 1)
    state = page_own(pg, page)
    if data == cython.NULL and (state & STATE) == NONE:
        store32(cython.address(pg.pages[page].state), NONE)
        return 0
    if load_owned(pg, ctx, number, page, cython.address(state), 0, ctx.plain, cython.address(error)) < 0:
        return -error if error > 0 else -EIO
    if data == cython.NULL:
        memset(ctx.plain + within, 0, length)
    else:
        memcpy(ctx.plain + within, data, length)
    return store_owned(pg, ctx, number, page, state, ctx.plain)


def area_promote(pg, ctx, number, offset):
    """Have a page in a backend that only its slot has, if one takes it; 0 or -errno: it is as it was."""
    page: uint32_t = pg.blocks[number].first + offset
    state: uint32_t = load32(cython.address(pg.pages[page].state))
    kind: uint32_t = 0
    error: cython.int = 0
    if state != OUT | SLOT:
        return 0
    if pg.policy.of != cython.NULL or is_shared(pg):
        pool_make_room(pg, ctx, number, page, 1)
    state = page_own(pg, page)
    if state == OUT | SLOT:
        if load_owned(pg, ctx, number, page, cython.address(state), 0, ctx.plain, cython.address(error)) < 0:
            return -error if error > 0 else -EIO
        frontswap_promote(pg, ctx, page, ctx.plain, cython.address(kind))
        state = OUT | kind
    store32(cython.address(pg.pages[page].state), state)
    return 0


def area_invalidate(pg, number, offset):
    """frontswap_invalidate_page for a page of an area: True if a backend had it. It reads as zeros now."""
    page: uint32_t = pg.blocks[number].first + offset
    state: uint32_t = page_own(pg, page)
    held: cython.bint = frontswap_invalidate_page(pg, page, state)
    store32(cython.address(pg.pages[page].state), NONE)
    return 1 if held else 0


def area_discard(pg, ctx, number, offset):
    """area_invalidate(), and zeros are in the slot too, where the area wants that (area_t.zeroing); 0 or -errno.

    The slot first: a page that reads as zeros now must not have its old bytes after a restart. After an error the page
    is as it was.
    """
    area: area_p = cython.address(pg.areas[number])
    page: uint32_t = pg.blocks[number].first + offset
    state: uint32_t
    error: cython.int
    if load32(cython.address(pg.pages[page].state)) == NONE:
        return 0
    state = page_own(pg, page)
    # Written through, a slot may have been written though its page does not say so: the write has failed half-way.
    if state != NONE and area.zeroing and ((state & SLOT) != 0 or loadi(cython.address(pg.writethrough))):
        error = area_slot_zero(area, ctx, offset, cython.cast(uint32_t, 1) << pg.blocks[number].shift)
        if error:
            store32(cython.address(pg.pages[page].state), state)
            return -error
    frontswap_invalidate_page(pg, page, state)
    store32(cython.address(pg.pages[page].state), NONE)
    return 0


def area_used(pg, number, first):
    """Pages of an area, from `first` on, that do not read as zeros because nothing was ever stored."""
    block: block_p = cython.address(pg.blocks[number])
    found: int64_t = 0
    offset: uint32_t
    for offset in range(first, block.pages):
        if load32(cython.address(pg.pages[block.first + offset].state)) != NONE:
            found += 1
    return found


def area_empty(pg, number):
    """Invalidate every page that is not NONE."""
    block: block_p = cython.address(pg.blocks[number])
    offset: uint32_t
    for offset in range(block.pages):
        if load32(cython.address(pg.pages[block.first + offset].state)) != NONE:
            area_invalidate(pg, number, offset)


def area_store_many(pg, number, offsets, order, n, data, results):
    """Store `n` pages, `offsets[order[i]]` ascending. All are owned before the first is stored.

    So whoever looks for any of them from then on waits for this batch's bytes, and never sees those of before
    (rule 10). Ascending, and after the context is taken: two batches wait for each other in one direction only.
    """
    ctx: context_p = context_take(pg)
    block: block_p = cython.address(pg.blocks[number])
    size: uint64_t = cython.cast(uint64_t, 1) << block.shift
    i: int64_t
    at: int64_t
    if pg.policy.of != cython.NULL or is_shared(pg):
        pool_make_room(pg, ctx, number, 0, n)
    for i in range(n):
        at = order[i]
        results[at] = cython.cast(int32_t, page_own(pg, block.first + offsets[at]))
    for i in range(n):
        at = order[i]
        results[at] = store_owned(
            pg, ctx, number, block.first + offsets[at], cython.cast(uint32_t, results[at]), data + at * size
        )
        if results[at] < -IN_BACKEND_STILL:
            results[at] += IN_BACKEND_STILL
    context_give(ctx)
