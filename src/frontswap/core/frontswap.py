"""The hooks: where a page leaves RAM and where it comes back (mm/frontswap.c, v15).

`store` offers a page to the backends in order; the first to accept wins; a page that all refuse goes
to its slot. `load` brings it back, verified. The caller owns the page (page_t.state is BUSY), which is
the page lock of the kernel's contract: nobody else loads, stores or invalidates the same page.

Dispatch and accounting only: what is accepted is the backends' business (zcache, filters, adapter). Two kinds of
slot: a swap area has one for each page, at its offset; behind the memory door refused pages share segments.
"""

import cython
from cython.cimports.frontswap.core.layout import (
    A_FAILED_STORES,
    A_INVALIDATES,
    A_LOADS,
    A_POISONED,
    A_SLOT_LOADS,
    A_SLOT_STORES,
    A_SUCC_STORES,
    ACCEPTED,
    B_FAILED_LOADS,
    B_FAILED_STORES,
    B_INVALIDATES,
    B_LOADS,
    B_REJECT,
    B_SUCC_STORES,
    C_FAILED_STORES,
    C_INVALIDATES,
    C_LOADS,
    C_POISONED,
    C_REJECT,
    C_SLOT_ERRORS,
    C_SLOT_LOADS,
    C_SLOT_STORES,
    C_SUCC_STORES,
    KIND,
    POISON,
    RECORD,
    RECORD_BACKEND,
    RECORD_LOG,
    RECORD_NONE,
    RECORD_SAME,
    REFUSED_STOPPED,
    SLOT,
    STACK_ACTIVE,
    STREAM_SLOT,
    UNTOLD,
    area_p,
    backend_p,
    block_p,
    holder,
    holder_change,
    page_bytes,
    page_p,
)
from cython.cimports.frontswap.core.policy import policy_gone
from cython.cimports.frontswap.core.record import log_load, record_make, record_plain
from cython.cimports.frontswap.core.segments import record_append, record_drop
from cython.cimports.frontswap.core.swapfile import area_slot_read, area_slot_write
from cython.cimports.frontswap.core.uapi import ENOSPC, add64, addi, load64, loadi, store32, uint32_t, uint64_t


def offer(b, pg, ctx, page, data, kind):
    """Store in one backend or filter; ACCEPTED or REFUSED_*."""
    code: cython.int = b.store(b, pg, ctx, page, data, kind)
    add64(cython.address(b.counters[B_SUCC_STORES if code == ACCEPTED else B_FAILED_STORES]), 1)
    if code != ACCEPTED:
        add64(cython.address(b.counters[B_REJECT + code]), 1)
    return code


def fetch(b, pg, ctx, page, state, more):
    """Load from one backend or filter into `ctx.into`; 0, LOAD_* or an errno."""
    error: cython.int = b.load(b, pg, ctx, page, state, more)
    add64(cython.address(b.counters[B_FAILED_LOADS if error else B_LOADS]), 1)
    return error


def forget(b, pg, page, state):
    """Invalidate a page in one backend or filter."""
    b.forget(b, pg, page, state)
    add64(cython.address(b.counters[B_INVALIDATES]), 1)


def count_area(pg, page, which):
    """Count for the area of a page; arrays of the memory door have no counters of their own."""
    if pg.areas != cython.NULL:
        add64(cython.address(pg.areas[pg.pages[page].block].counters[which]), 1)


def offer_all(pg, ctx, page, data, kind):
    """Offer a page to the active stacks in order; the number of the one that accepted, or -1."""
    left: uint64_t = cython.cast(uint64_t, load64(cython.address(pg.order)))
    number: cython.int
    code: cython.int
    while left:
        number = cython.cast(cython.int, left & 255) - 1
        left >>= 8
        # Counted first, looked at then: see BACKENDS COME AND GO in layout.pxd.
        addi(cython.address(pg.stack_users[number]), 1)
        code = REFUSED_STOPPED
        if loadi(cython.address(pg.stack_state[number])) == STACK_ACTIVE:
            code = offer(pg.stacks[number], pg, ctx, page, data, kind)
        if code == ACCEPTED:
            # Before the drain may look: it goes by what the stack holds.
            holder_change(pg, page, -1, number)
            addi(cython.address(pg.stack_users[number]), -1)
            return number
        addi(cython.address(pg.stack_users[number]), -1)
        add64(cython.address(pg.counters[C_REJECT + code]), 1)
    return -1


def frontswap_store(pg, ctx, page, data, old, kind):
    """Store an owned page whose state word was `old`; IN_BACKEND, IN_SLOT, NOWHERE, or -errno of its slot.

    `*kind` is the RECORD_* of its new state word; 0 when the page is in neither. Whatever was there before is gone
    then, everywhere (rule 3): with no backend, and with all of them stopped, too.
    """
    had: cython.int = holder(pg, page, old)
    now: cython.int = -1
    written: cython.int
    area: area_p = cython.NULL if pg.areas == cython.NULL else cython.address(pg.areas[pg.pages[page].block])
    ctx.is_packed = ctx.was_tried = False
    ctx.through = False
    kind[0] = RECORD_NONE
    if had >= 0:
        # Counted, until it has been told: it may be unregistered, and has one page less from here on. (Not counted: the
        # drain finds nothing, the stack is taken apart, and then told.)
        addi(cython.address(pg.stack_users[had]), 1)
        if (old & KIND) != RECORD_BACKEND:
            # Its place is in `where`, which the next store overwrites.
            forget(pg.stacks[had], pg, page, old | UNTOLD)
        holder_change(pg, page, had, -1)
    if load64(cython.address(pg.order)) != 0:
        if area == cython.NULL or loadi(cython.address(area.stopped)) == 0:
            now = offer_all(pg, ctx, page, data, kind)
        else:
            add64(cython.address(pg.counters[C_REJECT + REFUSED_STOPPED]), 1)
        add64(cython.address(pg.counters[C_SUCC_STORES if now >= 0 else C_FAILED_STORES]), 1)
        count_area(pg, page, A_SUCC_STORES if now >= 0 else A_FAILED_STORES)
    if had >= 0:
        if (old & KIND) == RECORD_BACKEND and had != now:
            forget(pg.stacks[had], pg, page, old)
        if (old & KIND) == RECORD_LOG and had != now and pg.policy.of != cython.NULL:
            policy_gone(pg, page)
        addi(cython.address(pg.stack_users[had]), -1)
    if now < 0:
        return slot_store(pg, ctx, page, data, kind)
    if area != cython.NULL and area.fd >= 0 and (loadi(cython.address(pg.writethrough)) or ctx.through):
        written = slot_store(pg, ctx, page, data, kind)
        # Only what the user has asked for is a promise. The page itself is safe either way.
        if written < 0 and loadi(cython.address(pg.writethrough)):
            return written
    return IN_BACKEND


def slot_store(pg, ctx, page, data, kind):
    """Write a page to its slot; IN_SLOT, NOWHERE if it has none, or -errno. `*kind` gets SLOT.

    Behind the memory door it is a record: compressed, unless a backend has found that it does not get smaller.
    """
    p: page_p = cython.address(pg.pages[page])
    where: uint64_t
    error: cython.int
    area: area_p
    if pg.areas != cython.NULL:
        area = cython.address(pg.areas[p.block])
        if area.fd < 0:
            return NOWHERE
        error = area_slot_write(area, ctx, page - pg.blocks[p.block].first, data, page_bytes(pg, page))
        if error:
            add64(cython.address(pg.counters[C_SLOT_ERRORS]), 1)
            return -error
        add64(cython.address(pg.counters[C_SLOT_STORES]), 1)
        add64(cython.address(area.counters[A_SLOT_STORES]), 1)
        kind[0] = kind[0] | SLOT
        return IN_SLOT
    if pg.file < 0:
        return NOWHERE
    if not ctx.was_tried and load64(cython.address(pg.order)) != 0:
        record_make(pg, ctx, page, data)  # a filter has refused it: its slot is as small as the pool's record
    if not ctx.is_packed:
        record_plain(pg, ctx, page, data)
    where = record_append(pg, STREAM_SLOT, cython.address(ctx.header), ctx.packed if ctx.is_packed else data)
    if where == 0:
        return NOWHERE
    add64(cython.address(pg.counters[C_SLOT_STORES]), 1)
    p.where = where
    p.check = ctx.header.check
    kind[0] = RECORD_LOG | SLOT
    return IN_SLOT


def slot_load(pg, ctx, page, state, more):
    """Read a page from its slot into `ctx.into`; 0, LOAD_* or an errno."""
    block: block_p = cython.address(pg.blocks[pg.pages[page].block])
    error: cython.int
    if pg.areas == cython.NULL:
        return log_load(pg, ctx, page, state, more)
    error = area_slot_read(
        cython.address(pg.areas[pg.pages[page].block]), ctx, page - block.first, ctx.into, page_bytes(pg, page)
    )
    if error:
        add64(cython.address(pg.counters[C_SLOT_ERRORS]), 1)
        return error
    add64(cython.address(pg.counters[C_SLOT_LOADS]), 1)
    count_area(pg, page, A_SLOT_LOADS)
    return 0


def refaulted(pg, page, state):
    """A page that no backend has comes back from its slot: tell the filters that go by that."""
    left: uint64_t = cython.cast(uint64_t, load64(cython.address(pg.order)))
    number: cython.int
    b: backend_p
    while left:
        number = cython.cast(cython.int, left & 255) - 1
        left >>= 8
        addi(cython.address(pg.stack_users[number]), 1)
        if loadi(cython.address(pg.stack_state[number])) == STACK_ACTIVE:
            b = pg.stacks[number]
            while b != cython.NULL:
                if b.refault != cython.NULL:
                    b.refault(b, pg, page, state)
                b = b.lower
        addi(cython.address(pg.stack_users[number]), -1)


def frontswap_load(pg, ctx, page, state, more):
    """Bring a page's bytes into `ctx.into`, verified; 0, LOAD_* or an errno. The record stays.

    `state` is the word that the caller replaced when it took the page; `more`: see record_get(). A backend that
    does not give its page back is an error (rule 5): the slot is only asked where it has the same bytes (rule 6).
    """
    number: cython.int = holder(pg, page, state)
    error: cython.int = 0
    ctx.from_slot = number < 0
    if number >= 0:
        error = fetch(pg.stacks[number], pg, ctx, page, state, more)
        if error == 0:
            if (state & KIND) == RECORD_BACKEND:
                add64(cython.address(pg.counters[C_LOADS]), 1)
            count_area(pg, page, A_LOADS)
            return 0
        if pg.areas == cython.NULL or (state & SLOT) == 0:
            return error
        ctx.from_slot = True
    error = slot_load(pg, ctx, page, state, more)
    if error == 0 and number < 0 and loadi(cython.address(pg.refaults_wanted)):
        refaulted(pg, page, state)
    return error


def frontswap_invalidate_page(pg, page, state):
    """The page's record is of no use any more: the page is written, or freed. True if a backend had it."""
    number: cython.int = holder(pg, page, state)
    if number >= 0:
        add64(cython.address(pg.counters[C_INVALIDATES]), 1)
        forget(pg.stacks[number], pg, page, state)
        holder_change(pg, page, number, -1)
        count_area(pg, page, A_INVALIDATES)
        return True
    if pg.areas == cython.NULL and (state & KIND) == RECORD_LOG:
        record_drop(pg, pg.pages[page].where, page_bytes(pg, page))
    if pg.policy.of != cython.NULL and (state & UNTOLD) == 0:
        freed(pg, page)
    return False


def frontswap_overwritten(pg, page, state):
    """frontswap_invalidate_page() of a page of the memory door that is written to, or may be, and so is stored again
    when it leaves: what policies know of it stays.
    """
    frontswap_invalidate_page(pg, page, state | UNTOLD)


def zcache_enter(pg):
    """As a store: zcache, and its policy, are not unregistered before zcache_leave(). Its stack; -1: there is none that
    accepts pages.
    """
    number: cython.int = loadi(cython.address(pg.zcache_number))
    if number < 0:
        return -1
    addi(cython.address(pg.stack_users[number]), 1)
    # It may have gone before we were counted, and another one have come to its number.
    if loadi(cython.address(pg.stack_state[number])) == STACK_ACTIVE and (
        loadi(cython.address(pg.zcache_number)) == number
    ):
        return number
    zcache_leave(pg, number)
    return -1


def zcache_leave(pg, number):
    """Done with what zcache_enter() has kept."""
    addi(cython.address(pg.stack_users[number]), -1)


def freed(pg, page):
    """A page is freed that the pool does not have: its policy may remember that it once did."""
    number: cython.int = zcache_enter(pg)
    if number < 0:
        return
    if pg.policy.of != cython.NULL:
        policy_gone(pg, page)
    zcache_leave(pg, number)


def frontswap_evacuate(pg, ctx, page, state, kind):
    """Take an owned page from the backend that has it to its slot; 0, LOAD_* or an errno.

    `*kind` is the RECORD_* of its new state word then. After an error everything is as it was.
    """
    p: page_p = cython.address(pg.pages[page])
    number: cython.int = holder(pg, page, state)
    where: uint64_t = p.where
    check: uint32_t = p.check
    new_where: uint64_t
    new_check: uint32_t
    error: cython.int
    kind[0] = state & RECORD
    if number < 0:
        return 0
    if pg.areas != cython.NULL and (state & SLOT) != 0:
        kind[0] = SLOT  # written through
    elif pg.areas == cython.NULL and (state & KIND) == RECORD_SAME:
        kind[0] = RECORD_SAME | SLOT  # its word is all there is of it, and that is here
    else:
        kind[0] = RECORD_NONE
        error = fetch(pg.stacks[number], pg, ctx, page, state, 0)
        if error:
            return error
        ctx.is_packed = ctx.was_tried = False
        error = slot_store(pg, ctx, page, ctx.into, kind)
        if error <= 0:
            kind[0] = state & RECORD
            return -error if error < 0 else ENOSPC
    new_where = p.where
    new_check = p.check
    p.where = where  # forget() wants the old place
    p.check = check
    forget(pg.stacks[number], pg, page, state)
    p.where = new_where
    p.check = new_check
    holder_change(pg, page, number, -1)
    return 0


def frontswap_promote(pg, ctx, page, data, kind):
    """Offer a page that its slot has, and no backend, to the backends; True: one has it now, too.

    The slot stays what it is, so that it costs nothing to take the page out again. `*kind` is as of frontswap_store().
    """
    now: cython.int = -1
    kind[0] = SLOT
    if load64(cython.address(pg.order)) == 0 or loadi(cython.address(pg.areas[pg.pages[page].block].stopped)):
        return False
    ctx.is_packed = ctx.was_tried = ctx.through = False
    now = offer_all(pg, ctx, page, data, kind)
    add64(cython.address(pg.counters[C_SUCC_STORES if now >= 0 else C_FAILED_STORES]), 1)
    count_area(pg, page, A_SUCC_STORES if now >= 0 else A_FAILED_STORES)
    kind[0] = kind[0] | SLOT if now >= 0 else SLOT
    return now >= 0


def page_poison(pg, page):
    """An owned page is lost, whoever had it has forgotten it: every load from now on is an error (rule 5)."""
    add64(cython.address(pg.counters[C_POISONED]), 1)
    count_area(pg, page, A_POISONED)
    store32(cython.address(pg.pages[page].state), POISON)
