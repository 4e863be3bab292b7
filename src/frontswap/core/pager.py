"""The pager: what a fault does to a page, whoever caught it (seam), and readahead.

Everything here follows the page protocol written at page_t (layout.pxd) and is async-signal-safe.
"""

import cython
from cython.cimports.frontswap.core.balance import FROM_NOWHERE
from cython.cimports.frontswap.core.bring import (
    bring_asked,
    bring_huge,
    came_back,
    gives_up,
    whole_pages,
    write_huge,
)
from cython.cimports.frontswap.core.contexts import context_give, context_take
from cython.cimports.frontswap.core.evict import dirty_word, uncharge
from cython.cimports.frontswap.core.frontswap import frontswap_load, frontswap_overwritten
from cython.cimports.frontswap.core.gate import gate_await, gate_enter, gate_leave
from cython.cimports.frontswap.core.layout import (
    ADVICE_RANDOM,
    BUSY,
    C_FAULTS,
    C_FIRST_TOUCHES,
    C_POISONED,
    C_READAHEADS,
    C_REFAULTS,
    C_WRITE_UPGRADES,
    CLEAN,
    DIRTY,
    HOLES,
    KIND,
    NONE,
    OUT,
    POISON,
    READAHEAD_CONTEXT,
    RECORD,
    RECORD_LOG,
    RECORD_NONE,
    RECORD_SAME,
    REF,
    SLOT,
    SPLIT,
    STATE,
    block_p,
    context_p,
    first_part,
    is_kept_out,
    page_address,
    page_bytes,
    page_p,
    pager_p,
    parts_of,
    request_t,
    segment_of,
)
from cython.cimports.frontswap.core.reclaim import BRIEF, PATIENT, charge, queue_add, wait_for_memory
from cython.cimports.frontswap.core.record import load_cause
from cython.cimports.frontswap.core.region import region_allow, region_complete, region_fill, region_touch
from cython.cimports.frontswap.core.segments import record_on_disk
from cython.cimports.frontswap.core.split import split_untouched, wants_parts
from cython.cimports.frontswap.core.spot import is_shut, part_holds, spot_find, spot_holds, spot_part, spot_t
from cython.cimports.frontswap.core.streams import JUMPS, request_page, request_take, stream_note
from cython.cimports.frontswap.core.swapfile import swap_reserve
from cython.cimports.frontswap.core.touch import touch_huge
from cython.cimports.frontswap.core.trace import trace_note
from cython.cimports.frontswap.core.uapi import (
    ENOMEM,
    add64,
    addi,
    backoff,
    cas32,
    int64_t,
    load32,
    load64,
    loadi,
    lock,
    sleep_on,
    store32,
    uint8_t,
    uint32_t,
    uint64_t,
    unlock,
    wake,
)
from cython.cimports.frontswap.core.uffd import die, say
from cython.cimports.libc.stdio import snprintf

RESERVE_AHEAD = cython.declare(int64_t, 64 << 20)  # fallocate() takes long, whatever it is asked for
FAR = cython.declare(cython.int, 1 << 20)  # more pages than one read of the swap file can bring


def pager_fault(pg, address, write):
    """Handle a fault at `address`; RESOLVED, RETRY, SHUT, or one of the errors."""
    spot: spot_t
    result: cython.int = STRAY
    ctx: context_p = cython.NULL
    gate_enter(pg)
    if loadi(cython.address(pg.registered)) == 0:
        result = RETRY  # a registration that has failed after all: the next access is an ordinary one
    elif spot_find(pg, address, cython.address(spot)):
        result = fault(pg, cython.address(spot), write, cython.address(ctx))
        if ctx != cython.NULL:
            context_give(ctx)
    gate_leave(pg)
    return result


def backed(pg, bytes):
    """Count a page that nobody has reserved room for; False: the disk cannot back it.

    Everybody adds to `allocated` first and has the swap file grow then, under the lock, if that is more than it has
    been reserved for. So all that is counted and has been allowed is reserved for, whoever was first.
    """
    allocated: int64_t = add64(cython.address(pg.allocated), bytes) + bytes
    error: cython.int
    if allocated <= load64(cython.address(pg.reserved_for)):
        return True
    lock(cython.address(pg.arena_lock))
    # Anew: an allocation that was about to be refused may have been counted above. It is taken back under the lock.
    allocated = load64(cython.address(pg.allocated))
    error = swap_reserve(pg, allocated + RESERVE_AHEAD, pg.budget)
    if error:
        error = swap_reserve(pg, allocated, pg.budget)
    unlock(cython.address(pg.arena_lock))
    if error:
        add64(cython.address(pg.allocated), -bytes)
    return error == 0


def fault(pg, spot, write, ctx):
    """The states of one page under a fault.

    `*ctx` is taken when it is needed; the caller gives it back.
    """
    p: page_p = cython.address(pg.pages[spot.page])
    size: int64_t = cython.cast(int64_t, 1) << spot.shift
    state: uint32_t
    turn: cython.int = 0
    tries: cython.int = 0
    charged: cython.bint = False
    backing: cython.bint = False
    more: cython.int
    result: cython.int
    error: cython.int
    block: block_p
    add64(cython.address(pg.counters[C_FAULTS]), 1)
    while True:
        state = load32(cython.address(p.state))
        if (state & STATE) == BUSY:
            backoff(turn)
            turn += 1
            continue
        if (state & STATE) == SPLIT:
            if charged:
                uncharge(pg, size)
            if backing:
                add64(cython.address(pg.allocated), -size)
            charged = backing = False
            if not spot_part(pg, spot):
                result = STRAY
                break
            p = cython.address(pg.pages[spot.page])
            size = cython.cast(int64_t, 1) << spot.shift
            continue
        if (state & STATE) == DIRTY and (state & HOLES) != 0:
            if not cas32(cython.address(p.state), state, BUSY):
                continue
            if not spot_holds(pg, spot):
                store32(cython.address(p.state), state)
                result = STRAY
                break
            fill_holes(pg, ctx[0], spot.page)
            store32(cython.address(p.state), state & ~cython.cast(uint32_t, HOLES))
            # Not RESOLVED: nothing may have been absent any more, and whoever waits (handler threads) has been woken by
            # nobody: not by a huge page that came in part, of which the kernel has not said so (uffd_move()).
            result = RETRY
            break
        if (state & STATE) == DIRTY or ((state & STATE) == CLEAN and not write):
            result = RETRY
            break
        if (state & STATE) == POISON:
            result = LOST
            break
        if is_shut(pg, spot):  # no room is made for it
            result = SHUT
            break
        if (state & STATE) == NONE and spot.whole == 0 and wants_parts(pg, cython.address(pg.blocks[spot.number])):
            if cas32(cython.address(p.state), state, BUSY):
                if not spot_holds(pg, spot):
                    store32(cython.address(p.state), state)
                    result = STRAY
                    break
                split_untouched(pg, spot.number, spot.page)
            continue
        if (state & STATE) == NONE and write and not charged and touch_huge(pg, spot, ctx):
            result = RETRY  # it may not be there after all: the next fault fills the holes then
            break
        if (state & STATE) == OUT and not charged and bring_asked(pg, spot, write, ctx):
            result = RETRY
            break
        # NONE or OUT: pay first, own the page then. Who owns a page waits for nobody.
        if (state & STATE) != CLEAN and not charged:
            if charge(pg, ctx, size, PATIENT) < 0:
                if load32(cython.address(p.state)) == state:
                    return NO_MEMORY
            else:
                charged = True
            continue
        if (state & STATE) == NONE and not backing and pg.blocks[spot.number].loose:
            if not backed(pg, size):
                result = NO_DISK
                break
            backing = True
            continue
        if (state & STATE) == OUT and ctx[0] == cython.NULL:
            ctx[0] = context_take(pg)
            continue
        if not cas32(cython.address(p.state), state, BUSY):
            continue
        if not spot_holds(pg, spot):
            store32(cython.address(p.state), state)
            result = STRAY
            break
        if not part_holds(pg, spot):
            store32(cython.address(p.state), state)
            result = RETRY
            break
        # Again, for who takes back what was committed says so first, and owns the page then.
        if is_shut(pg, spot):
            store32(cython.address(p.state), state)
            result = SHUT
            break
        if (state & STATE) != CLEAN:
            if backing and (state & STATE) != NONE:
                add64(cython.address(pg.allocated), -size)
            p.block = spot.number  # a page learns its array at its first touch: an untouched one costs nothing
            more = 0
            # Who records wants to see all that is asked for: no readahead.
            block = cython.address(pg.blocks[spot.number])
            if pg.trace != cython.NULL:
                trace_page(pg, spot)
            elif block.advice != ADVICE_RANDOM:
                more = whole_pages(pg, block) if spot.whole == 0 else 0
                more = stream_note(pg, block, spot.index, spot.at, more, False) * FAR
            return bring_in(pg, ctx[0], spot.page, state, write, more, False)
        if write_huge(pg, spot.page, state):
            result = RESOLVED
            break
        # Before the record goes: it may be refused for want of a mapping, which then comes of what others have.
        error = region_allow(pg, page_address(pg, spot.page), size, False)
        if error == ENOMEM:
            store32(cython.address(p.state), state)
            if ctx[0] == cython.NULL:
                ctx[0] = context_take(pg)
            wait_for_memory(pg, ctx[0], size, error, tries)
            tries += 1
            continue
        if error:
            die("write protection", error)
        frontswap_overwritten(pg, spot.page, state)
        add64(cython.address(pg.counters[C_WRITE_UPGRADES]), 1)
        if pg.trace != cython.NULL:
            trace_page(pg, spot)
        store32(cython.address(p.state), dirty_word(state))
        result = RESOLVED
        break
    if charged:
        uncharge(pg, size)
    if backing:
        add64(cython.address(pg.allocated), -size)
    return result


def trace_page(pg, spot):
    """Record a page that is asked for, in units that an array keeps: a part counts as its page."""
    shift: uint8_t = pg.blocks[spot.array].shift
    trace_note(pg, spot.serial, spot.index >> (shift - spot.shift), cython.cast(uint32_t, 1) << shift)


def fill_holes(pg, ctx, page):
    """Fill the absent parts of an owned page with zeros. The whole page is paid for."""
    error: cython.int
    turn: cython.int = 0
    size: uint32_t = page_bytes(pg, page)
    while True:
        error = region_complete(pg, page_address(pg, page), size)
        if error == 0:
            break
        wait_for_memory(pg, ctx, size, error, turn)
        turn += 1


def bring_in(pg, ctx, page, state, write, more, ahead):
    """Fill an owned, paid page that was NONE or OUT, and store its new state; RESOLVED or LOST.

    `more`: pages that are wanted next, see record_get(). `ahead`: nobody has asked yet, leave errors to who does.
    """
    p: page_p = cython.address(pg.pages[page])
    address: uint64_t = page_address(pg, page)
    size: uint32_t = page_bytes(pg, page)
    word: uint32_t = CLEAN
    kind: uint32_t = state & RECORD
    error: cython.int
    turn: cython.int = 0
    if (state & STATE) == NONE:
        # A page that is read before it is written is a same-filled page of zeros: leaving costs nothing. No backend
        # has been asked, so it is none's.
        p.where = 0
        kind = RECORD_NONE if write else RECORD_SAME | SLOT
        add64(cython.address(pg.counters[C_FIRST_TOUCHES]), 1)
    else:
        add64(cython.address(pg.counters[C_REFAULTS]), 1)
        ctx.source = FROM_NOWHERE
        error = frontswap_load(pg, ctx, page, state, more)
        if error and ahead:
            uncharge(pg, size)
            store32(cython.address(p.state), state)
            return LOST
        if error:
            return page_lost(pg, page, state, error)
        word |= came_back(pg, ctx, size, state)
        if not write:
            write = gives_up(pg, ctx, page, state, (word & REF) != 0)
        if write:
            frontswap_overwritten(pg, page, state)
            kind = RECORD_NONE
    if write:
        word = (word & ~cython.cast(uint32_t, STATE)) | DIRTY
    while True:
        if (state & STATE) == NONE:
            error = region_touch(pg, address, size, not write, turn != 0)
        else:
            error = region_fill(pg, address, ctx.plain, size, not write, turn != 0)
        if error == 0:
            break
        wait_for_memory(pg, ctx, size, error, turn)
        turn += 1
    add64(cython.address(pg.resident), size)
    store32(cython.address(p.state), word | kind)
    queue_add(pg, page)
    return RESOLVED


def lost_message(pg, page, on_disk, cause):
    """Say on stderr which bytes of which array are lost, and why."""
    text: cython.char[512]
    block: block_p = cython.address(pg.blocks[pg.pages[page].block])
    offset: uint64_t = cython.cast(uint64_t, page - block.first) << block.shift
    snprintf(
        text,
        512,
        "frontswap: SIGBUS: page lost: array %u (%llu bytes), bytes %llu to %llu: its record in the %s "
        "cannot be used: %s\n",
        block.serial,
        cython.cast(cython.ulonglong, block.bytes),
        cython.cast(cython.ulonglong, offset),
        cython.cast(cython.ulonglong, offset + page_bytes(pg, page) - 1),
        cython.cast(cython.p_char, "swap file") if on_disk else cython.cast(cython.p_char, "compressed pool"),
        load_cause(cause),
    )
    say(text)


def page_lost(pg, page, state, cause):
    """The record of an owned page is unusable: never zeros, never old bytes (rule 5)."""
    add64(cython.address(pg.counters[C_POISONED]), 1)
    lost_message(pg, page, (state & KIND) == RECORD_LOG and record_on_disk(pg, pg.pages[page].where), cause)
    uncharge(pg, page_bytes(pg, page))
    store32(cython.address(pg.pages[page].state), POISON | (state & RECORD))
    return LOST


# --- readahead -----------------------------------------------------------------------------------


def prefetch(pg, ctx, page, more):
    """Bring a page in before it is asked for, clean; nothing if it is not OUT. `more`: see record_get()."""
    p: page_p = cython.address(pg.pages[page])
    state: uint32_t = load32(cython.address(p.state))
    size: int64_t
    own: context_p = ctx
    first: uint32_t
    count: uint32_t
    i: uint32_t
    if (state & STATE) == SPLIT:
        first = first_part(pg, page)
        count = parts_of(pg, page) if first else 0
        for i in range(count):
            prefetch(pg, ctx, first + i, cython.cast(cython.int, count - 1 - i))
        return
    if (state & STATE) != OUT:
        return
    size = page_bytes(pg, page)
    if charge(pg, cython.address(own), size, BRIEF) != 0:
        return
    if not cas32(cython.address(p.state), state, BUSY):
        uncharge(pg, size)
        return
    # Freed and given to an array of other pages since we looked. Or closed to the program: it stays as it is, for from
    # what nobody can read it could not leave again.
    if page_bytes(pg, page) != size or is_kept_out(pg, page):
        uncharge(pg, size)
        store32(cython.address(p.state), state)
        return
    if bring_in(pg, ctx, page, state, False, more, True) == RESOLVED:
        add64(cython.address(pg.counters[C_READAHEADS]), 1)


def out_on_disk(pg, page):
    """True if a page is out and its record seems to be in the swap file only (a hint: nobody owns it here)."""
    state: uint32_t = load32(cython.address(pg.pages[page].state))
    if (state & STATE) != OUT or (state & KIND) != RECORD_LOG:
        return False
    return segment_of(pg.pages[page].where) < pg.max_segments and record_on_disk(pg, pg.pages[page].where)


def readahead_thread(argument):
    """Background: brings in what sequences and advice "willneed" ask for."""
    pg: pager_p = cython.cast(pager_p, argument)
    ctx: context_p = cython.address(pg.contexts[READAHEAD_CONTEXT - addi(cython.address(pg.readahead_threads), 1)])
    request: request_t
    i: uint32_t
    at: uint32_t
    page: uint32_t
    more: cython.int
    backwards: cython.bint
    whole: cython.bint
    own: context_p
    gate_await(pg)
    while not pg.closing:
        sleep_on(cython.address(pg.readahead_event), -1)
        while not pg.closing:
            if not request_take(pg, cython.address(request)):
                break
            own = ctx
            if request.whole:
                gate_enter(pg)
                whole = bring_huge(pg, cython.address(own), request.first, False, True, 0, 0)
                gate_leave(pg)
                if whole:
                    continue
            backwards = (request.direction == 1 or request.direction == -1) and not out_on_disk(pg, request.first)
            for i in range(request.count):
                if pg.closing:
                    break
                if request.direction != 0 and i == request.count // 2 and request.count >= 4 and not request.whole:
                    continue
                # What is in RAM is met from its far end: the reader comes from the near one, and each does
                # the pages that the other does not. In the file, records follow each other forwards.
                at = request.count - 1 - i if backwards else i
                page = request_page(cython.address(request), at)
                more = 0 if request.direction == JUMPS else request.count - 1 - i
                gate_enter(pg)
                prefetch(pg, ctx, page, -more if backwards != (request.direction < 0) else more)
                gate_leave(pg)
    wake(cython.address(pg.readahead_event))  # a wake-up wakes one: pass the end on
    return cython.NULL
