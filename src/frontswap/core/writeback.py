"""Writeback: the coldest pages of zcache leave for the disk.

Behind the memory door whole segments go to the swap file as they are. A swap area has a slot for each page: there a
segment's pages are decompressed and written to their slots, as zswap does it.
"""

import cython
from cython.cimports.frontswap.core.balance import pool_wanted
from cython.cimports.frontswap.core.budget import budget_look
from cython.cimports.frontswap.core.cleaner import clean_disk, clean_ram
from cython.cimports.frontswap.core.contexts import work_enter, work_leave
from cython.cimports.frontswap.core.gate import gate_await, gate_enter, gate_leave
from cython.cimports.frontswap.core.layout import (
    PRESSURE_CRITICAL,
    PRESSURE_NONE,
    RECLAIM_CONTEXT,
    SEG_SEALED,
    STREAM_DENSE,
    STREAM_POOL,
    context_p,
    pager_p,
    pressure_of,
    segment_p,
    walk_t,
)
from cython.cimports.frontswap.core.packs import walk_begin, walk_claim, walk_next
from cython.cimports.frontswap.core.policy import policy_room
from cython.cimports.frontswap.core.recompress import recompress_rest, recompress_step
from cython.cimports.frontswap.core.segments import (
    move_begin,
    move_end,
    segment_close,
    segment_renew,
    slot_ahead,
    write_coldest,
    write_slot_stream,
)
from cython.cimports.frontswap.core.shed import close_all, page_shed, shed_victims
from cython.cimports.frontswap.core.swapfile import swap_tight
from cython.cimports.frontswap.core.uapi import (
    ENOSPC,
    addi,
    backoff,
    casi,
    int64_t,
    load64,
    loadi,
    lock,
    sleep_on,
    storei,
    uint32_t,
    unlock,
)
from cython.cimports.frontswap.core.victims import pool_write
from cython.cimports.frontswap.core.zcache import pool_is_sparse, pool_limit, pool_mark


def shed_coldest(pg, ctx):
    """Write the pages of the oldest segment to their slots, in front of areas; 0, -1: none, ENOSPC: no page left it.

    A page that has no slot, or whose slot fails, stays in the pool; its segment is the youngest then, so that it does
    not stand in the way of the others. So is one of which none has left: somebody has them, or the walk cannot find
    them, as a header is damaged.
    """
    number: uint32_t
    s: segment_p
    walk: walk_t
    got: int64_t
    turn: cython.int = 0
    stays: cython.bint = False
    done: int64_t = 0
    lock(cython.address(pg.log_lock))
    number = pg.oldest
    if number:
        move_begin(pg, number)
    unlock(cython.address(pg.log_lock))
    if number == 0:
        return 0 if close_all(pg) else -1
    s = cython.address(pg.segments[number])
    while loadi(cython.address(s.writers)) != 0:
        backoff(turn)
        turn += 1
    walk_begin(cython.address(walk), number, s.ram, s.fill, 0)
    while walk_next(pg, cython.address(walk)):
        while walk_claim(pg, cython.address(walk)):
            got = page_shed(pg, ctx, walk.page, walk.state, 0)
            if got < 0:
                stays = True
            else:
                done += got
    if not move_end(pg, number, SEG_SEALED):
        if stays or done == 0:
            segment_renew(pg, number)
        if done == 0:
            return ENOSPC
    return 0


def victims_write(pg, ctx):
    """Records leave a Memory's pool by its policy until what lives has room, and what is dead then is cleaned."""
    most: int64_t = pool_mark(pg)
    found: cython.int = pool_write(pg, policy_room(most))
    turn: cython.int
    for turn in range(2):
        if most <= 0 or load64(cython.address(pg.pool_bytes)) <= most or clean_ram(pg, ctx) <= 0:
            break
        found = 0
    return found


def pool_lighten(pg, ctx):
    """One segment less in the pool; 0, or why not."""
    if pg.areas == cython.NULL:
        return write_coldest(pg) if pg.policy.of == cython.NULL or pg.file < 0 else victims_write(pg, ctx)
    return shed_coldest(pg, ctx) if pg.policy.of == cython.NULL and not pg.weights else shed_victims(pg, ctx)


def pool_relieve(pg):
    """Bring the pool below what it may take now; the bytes that it is still above (0: done). It always ends."""
    over: int64_t = 0
    left: cython.int = cython.cast(cython.int, pg.ram_slots) + 1
    turn: cython.int = 0
    error: cython.int
    ctx: context_p
    if pressure_of(pg) == PRESSURE_CRITICAL:
        gate_enter(pg)
        segment_close(pg, STREAM_POOL)
        segment_close(pg, STREAM_DENSE)
        gate_leave(pg)
    while True:
        over = load64(cython.address(pg.pool_bytes)) - pool_limit(pg, pg.pool_soft)
        # No more turns than there are segments: what cannot leave ends this, it does not hold it.
        if over <= 0 or left == 0:
            break
        ctx = work_enter(pg)
        error = pool_lighten(pg, ctx)
        work_leave(pg, ctx)
        if error > 0 and pg.areas == cython.NULL:
            break
        if error != 0:
            # None is left to take: the last ones are in the hands of the writeback thread, 200 ms at most. Of areas:
            # these could not leave just now; others may.
            if turn > 4000:
                break
            backoff(turn)
            turn += 1 if error < 0 else 4
            continue
        left -= 1
    return over if over > 0 else 0


def writeback_step(pg, ctx, idle):
    """One turn of what keeps the pool within its share and dense, and slots of the swap file free; True: go on.

    `idle`: turns in which no page of an area left. Inside the gate, owning nothing.
    """
    working: cython.bint = False
    found: cython.int = -1
    budget_look(pg)
    if (
        pg.staging != 0
        and pressure_of(pg) == PRESSURE_NONE
        and load64(cython.address(pg.pool_bytes)) + pg.segment_bytes <= pool_wanted(pg) // 2
    ):
        slot_ahead(pg)
    if write_slot_stream(pg) == 0:
        working = True
    if load64(cython.address(pg.pool_bytes)) > pool_mark(pg):
        # What is dead of an area that keeps to its quota is not for others to make room for.
        if pg.quotas and pressure_of(pg) == PRESSURE_NONE and pool_is_sparse(pg) and clean_ram(pg, ctx) > 0:
            found = 0
        else:
            found = pool_lighten(pg, ctx)
    if found > 0 and pg.areas != cython.NULL and idle[0] < 8:
        idle[0] += 1  # that segment stays: the next one may not
        working = True
    elif found == 0:
        idle[0] = 0
        working = True
    elif pool_is_sparse(pg) and clean_ram(pg, ctx) > 0:
        working = True
    if pg.slots and swap_tight(pg) and casi(cython.address(pg.cleaning), 0, 1):
        found = clean_disk(pg)
        storei(cython.address(pg.cleaning), 0)
        if found > 0:
            working = True
        elif found < 0:
            storei(cython.address(pg.no_slots), 1)
    return working


def writeback_thread(argument):
    """Background: writeback_step() until there is nothing to do; recompression has what is left of its time."""
    pg: pager_p = cython.cast(pager_p, argument)
    ctx: context_p = cython.address(pg.contexts[RECLAIM_CONTEXT])  # areas have no reclaim thread
    working: cython.bint
    idle: cython.int
    gate_await(pg)
    addi(cython.address(pg.writers_back), 1)
    while not (pg.closing or pg.pool_closing):
        sleep_on(cython.address(pg.writeback_event), recompress_rest(pg))
        working = True
        idle = 0
        while working and not (pg.closing or pg.pool_closing):
            gate_enter(pg)
            working = writeback_step(pg, ctx, cython.address(idle)) or recompress_step(pg)
            gate_leave(pg)
    addi(cython.address(pg.writers_back), -1)
    return cython.NULL
