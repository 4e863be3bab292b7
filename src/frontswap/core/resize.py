"""The limit of a Memory changes while it runs.

Raised, it holds at once. Lowered, it holds for whatever is charged from then on, and who calls evicts with the others
until all that was charged before fits too. What a lower limit needs is there before it is lower: slots for what will
not fit any more, and the registration, if all that is allocated fitted until now.

Race: allocations go by the limit and change what is allocated, so both happen under arena_lock, inside the gate.
"""

import cython
from cython.cimports.frontswap.core.arena import CROSSING, NO_REGISTRATION, arena_trim, backing
from cython.cimports.frontswap.core.contexts import limit_apply, reserve_bytes, work_enter, work_leave
from cython.cimports.frontswap.core.gate import gate_enter, gate_leave
from cython.cimports.frontswap.core.layout import FRAME, MAX_PAGE, PRESSURE_CRITICAL, context_p, pressure_of
from cython.cimports.frontswap.core.loose import crossing, loose_resume
from cython.cimports.frontswap.core.reclaim import PATIENCE, reclaim_batch
from cython.cimports.frontswap.core.registration import threads_resume
from cython.cimports.frontswap.core.segments import write_coldest
from cython.cimports.frontswap.core.uapi import (
    backoff,
    int64_t,
    load64,
    loadi,
    lock,
    uint32_t,
    unlock,
    wake,
)

MIN_SEGMENT = cython.declare(uint32_t, 256 << 10)


def page_most_for(limit):
    """The largest page of a Memory of this limit: a segment of the log, of which seven are set aside, is a 128th."""
    largest: uint32_t = MIN_SEGMENT
    while largest < MAX_PAGE and cython.cast(int64_t, largest) * 256 <= limit:
        largest *= 2
    return largest


def largest_page(limit: int) -> int:
    """The same for the control plane."""
    return page_most_for(limit)


def limit_charged(pg):
    """Bytes of RAM that are ours: what is used, and the reserve; before the registration what is allocated, and of
    mappings without a reservation what was there when somebody looked. All of them while everything fits: nobody looks
    again then.
    """
    beside: int64_t
    there: int64_t = pg.loose
    if loadi(cython.address(pg.registered)):
        return load64(cython.address(pg.used)) + pg.limit - pg.budget
    beside = load64(cython.address(pg.allocated)) + pg.spare_bytes
    if pg.loose_looked and beside + there > pg.budget:
        there = min(there, pg.loose_there)
    return beside + there


def limit_least(pg):
    """The least that a limit may be: half of it is left when the largest page in use has what it needs."""
    return 2 * reserve_bytes(pg, 0, pg.context_page)


def limit_step(pg, limit):
    """Change the limit if all is there that it needs: 0, CROSSING or why not. Inside the gate, under arena_lock."""
    old: int64_t = pg.limit
    budget: int64_t = limit - reserve_bytes(pg, limit, pg.context_page)
    allocated: int64_t = load64(cython.address(pg.allocated))
    error: cython.int
    if budget < pg.budget:
        # A page that does not compress would have no place, and its fault would end the process.
        if pg.file < 0 and allocated + pg.spare_bytes > budget:
            return LIMIT_ALLOCATED
        # Faults go by what has been reserved for: see backed() in core/pager.py.
        if loadi(cython.address(pg.registered)) and allocated < pg.reserved_for:
            allocated = pg.reserved_for
        error = backing(pg, allocated, budget)
        if error:
            return error
    limit_apply(pg, limit, pg.context_page)
    # The limit first, pins then, as a pin counts itself first and looks at the limit then.
    if limit < old and load64(cython.address(pg.pinned)) > pg.budget // 2:
        limit_apply(pg, old, pg.context_page)
        return LIMIT_PINNED
    return 0


def limit_change(pg, limit, page_most, allocate):
    """Change the limit, the largest page of arrays to come and, without a swap file, what may be allocated.

    0; else why not, and all is as before. The caller has signals blocked, and is not inside the gate.
    """
    error: cython.int
    failed: cython.int
    spares: cython.bint
    looked: cython.int = 0
    while True:
        gate_enter(pg)
        lock(cython.address(pg.arena_lock))
        spares = pg.spare_count > 0
        error = limit_step(pg, limit)
        if error == 0:
            pg.page_most = page_most
            pg.allocate_most = allocate
        unlock(cython.address(pg.arena_lock))
        gate_leave(pg)
        if (error == CROSSING or error == LIMIT_ALLOCATED) and spares:
            arena_trim(pg)  # it may be they that do not fit
        elif error == CROSSING:
            failed = crossing(pg, cython.address(looked))
            if failed:
                return NO_REGISTRATION | failed
        else:
            break
    threads_resume(pg)
    loose_resume(pg)
    wake(cython.address(pg.reclaim_event))
    wake(cython.address(pg.writeback_event))
    return error


def limit_keep(pg):
    """Evict until what is used fits in the limit; False: something does not leave now (pins, a disk that fails).

    Who faults meanwhile does the same, and goes on with it where this ends.
    """
    idle: cython.int = 0
    while load64(cython.address(pg.used)) > pg.budget:
        if idle > PATIENCE:
            return False
        idle = 0 if limit_shed(pg) else idle + 1
        if idle:
            wake(cython.address(pg.writeback_event))
            backoff(idle)
    return True


def limit_shed(pg):
    """Evict some; False: nothing leaves now. Not inside the gate."""
    ctx: context_p = work_enter(pg)
    done: cython.bint = False
    # What zcache may not keep leaves as it is, without a byte of memory that was not ours before.
    if pressure_of(pg) == PRESSURE_CRITICAL and pg.file >= 0:
        done = write_coldest(pg) == 0
    if not done:
        done = reclaim_batch(pg, ctx, FRAME) > 0 or (pg.file >= 0 and write_coldest(pg) == 0)
    work_leave(pg, ctx)
    return done
