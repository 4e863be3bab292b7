"""Reclaim: which resident page leaves next, and when.

The queue is first in, first out with a second chance: a page that came back soon after it had left
(its refault distance is below what fits in RAM, as in mm/workingset.c) carries REF and goes round once
more. There are no accessed bits to look at in user space; refaults are what we can see. The policy is
queue_add and queue_pop, and out_word in evict.py: another one replaces these three.

Races: a page may leave the queue's idea of the world (freed, evicted by advice) and stay in the list;
who pops it looks at its state word. A page is in the list at most once (page_t.next), and is put in
after its state is stored, so a resident page is always in the list or in the hands of who popped it.
"""

import cython
from cython.cimports.frontswap.core.contexts import context_take
from cython.cimports.frontswap.core.evict import (
    evict_clean,
    evict_dirty,
    evict_huge,
    evict_huge_clean,
    fill_holes_of,
    make_sure,
)
from cython.cimports.frontswap.core.gate import gate_await, gate_enter, gate_leave
from cython.cimports.frontswap.core.layout import (
    BUSY,
    C_DIRECT_RECLAIMS,
    C_OVERSHOOTS,
    CLEAN,
    DIRTY,
    FRAME,
    HIGH_SHIFT,
    NONE,
    OUT,
    POISON,
    QUEUE_END,
    RECLAIM_CONTEXT,
    REF,
    SPLIT,
    STATE,
    context_p,
    first_part,
    page_bytes,
    page_p,
    pager_p,
    parts_of,
)
from cython.cimports.frontswap.core.segments import write_coldest
from cython.cimports.frontswap.core.split import collapse, split_evict
from cython.cimports.frontswap.core.uapi import (
    ENOMEM,
    add64,
    backoff,
    cas32,
    cas64,
    int64_t,
    load32,
    load64,
    loadi,
    lock,
    sleep_on,
    uint32_t,
    unlock,
    wake,
)
from cython.cimports.frontswap.core.uffd import die
from cython.cimports.frontswap.core.writeback import writeback_step

BATCH = cython.declare(cython.int, 64)  # pages taken out of the queue under one lock
MOST = cython.declare(int64_t, 1 << 62)


def queue_push(pg, page):
    """Append a page that is not queued. The caller holds queue_lock."""
    pg.pages[page].next = QUEUE_END
    if pg.tail:
        pg.pages[pg.tail].next = page
    else:
        pg.head = page
    pg.tail = page
    pg.queued += 1


def queue_pop(pg):
    """The page that has waited longest, or 0. The caller holds queue_lock."""
    page: uint32_t = pg.head
    if page == 0:
        return 0
    pg.head = pg.pages[page].next
    if pg.head == QUEUE_END:
        pg.head = pg.tail = 0
    pg.pages[page].next = 0
    pg.queued -= 1
    return page


def queue_add(pg, page):
    """A page has become resident (its state is stored already)."""
    queue_run(pg, page, 1)


def queue_run(pg, first, n):
    """queue_add() of `n` neighbours."""
    i: uint32_t
    lock(cython.address(pg.queue_lock))
    for i in range(first, first + n):
        if pg.pages[i].next == 0:
            queue_push(pg, i)
    unlock(cython.address(pg.queue_lock))


def has_left(state):
    """Is a page freed or evicted, by its word? Who brings it back queues it; who has it at this moment does not."""
    return (state & STATE) in (NONE, OUT, POISON, SPLIT)


def reclaim_batch(pg, ctx, want):
    """Evict the next pages of the queue, about `want` bytes; the bytes freed (0: nothing would go).

    Pages that were not asked say nothing of those behind them: who is told 0 writes a segment of the pool out, or ends
    the process where there is no swap file. So it goes on to the end of the queue, and once more for who has had a
    second chance by then.
    """
    freed: int64_t = 0
    passed: cython.int = 1
    left: int64_t = 2 * cython.cast(int64_t, load32(cython.address(pg.queued)))
    while freed == 0 and passed != 0 and left >= 0:
        passed = 0
        freed = reclaim_some(pg, ctx, want, cython.address(passed))
        left -= passed
    return freed


def reclaim_some(pg, ctx, want, passed):
    """One turn of reclaim_batch(); `*passed` counts the pages that were not asked: those that had gone already, are
    pinned, have a second chance, or are somebody's.
    """
    popped: uint32_t[64]
    clean: uint32_t[64]
    clean_states: uint32_t[64]
    dirty: uint32_t[64]
    dirty_states: uint32_t[64]
    page: uint32_t
    state: uint32_t
    n: cython.int = 0
    cleans: cython.int = 0
    dirties: cython.int = 0
    stays: cython.int = 0
    i: cython.int
    size: int64_t = 0
    freed: int64_t = 0
    huge: int64_t
    whole: uint32_t
    p: page_p
    lock(cython.address(pg.queue_lock))
    while n < BATCH and size < want:
        page = queue_pop(pg)
        if page == 0:
            break
        popped[n] = page
        n += 1
        if (load32(cython.address(pg.pages[page].state)) & STATE) in (CLEAN, DIRTY):
            size += page_bytes(pg, page)
    unlock(cython.address(pg.queue_lock))
    for i in range(n):
        page = popped[i]
        p = cython.address(pg.pages[page])
        state = load32(cython.address(p.state))
        if has_left(state):
            passed[0] += 1
            continue  # freed, or evicted by advice
        if (state & STATE) == BUSY or (state >> HIGH_SHIFT) != 0:
            # Of a whole huge page, maybe, that another thread evicts; or pinned. Those behind it are to be asked.
            passed[0] += 1
        elif (state & REF) != 0:
            # Its second chance. A lost swap means that somebody uses it: the same answer.
            cas32(cython.address(p.state), state, state & ~cython.cast(uint32_t, REF))
            passed[0] += 1
        elif cas32(cython.address(p.state), state, BUSY):
            whole = collapse(pg, ctx, page, state)
            if whole:
                page = whole
                p = cython.address(pg.pages[page])
                state = DIRTY
            if (state & STATE) == CLEAN:
                huge = evict_huge_clean(pg, ctx, page, state, 0, QUEUE_END)
                if huge or not make_sure(pg, page, cython.address(state)):
                    freed += huge
                    if not has_left(load32(cython.address(p.state))):
                        popped[stays] = page
                        stays += 1
                    continue
            if (state & STATE) == CLEAN:
                huge = evict_parts(pg, ctx, page, state)
                if huge >= 0:
                    freed += huge
                    continue
                clean[cleans] = page
                clean_states[cleans] = state
                cleans += 1
                continue
            if fill_holes_of(pg, page, cython.address(state)):
                huge = evict_huge(pg, ctx, page, 0, QUEUE_END)
                if huge == 0 and whole == 0:
                    huge = evict_parts(pg, ctx, page, state)
                    if huge >= 0:
                        freed += huge
                        continue
                    huge = 0
                if huge == 0:
                    dirty[dirties] = page
                    dirty_states[dirties] = state
                    dirties += 1
                    continue
                freed += huge
                if has_left(load32(cython.address(p.state))):
                    continue
        popped[stays] = page  # used, pinned, or somebody is at work on it
        stays += 1
    freed += evict_clean(pg, clean, clean_states, cleans)
    for i in range(cleans):
        if (load32(cython.address(pg.pages[clean[i]].state)) & STATE) != OUT:
            popped[stays] = clean[i]
            stays += 1
    if dirties:
        freed += evict_dirty(pg, ctx, dirty, dirty_states, dirties)
        # Those that would not go are resident still.
        for i in range(dirties):
            if (load32(cython.address(pg.pages[dirty[i]].state)) & STATE) != OUT:
                popped[stays] = dirty[i]
                stays += 1
    if stays:
        lock(cython.address(pg.queue_lock))
        for i in range(stays):
            if pg.pages[popped[i]].next == 0:
                queue_push(pg, popped[i])
        unlock(cython.address(pg.queue_lock))
    return freed


def evict_parts(pg, ctx, page, state):
    """split_evict(), and its parts that would not go are queued."""
    first: uint32_t
    i: uint32_t
    freed: int64_t = split_evict(pg, ctx, page, state)
    if freed >= 0:
        first = first_part(pg, page)
        for i in range(first, first + parts_of(pg, page)):
            if (load32(cython.address(pg.pages[i].state)) & STATE) not in (NONE, OUT):
                queue_add(pg, i)
    return freed


def charge(pg, ctx, bytes, patience):
    """Charge `bytes` to the limit before they are used: 0; 1 overshot (counted); -1 nothing is left.

    BRIEF gives up when nothing leaves at once, PATIENT waits for others and overshoots in the end, WITHIN waits as long
    and gives up then.

    Above the limit the caller evicts first, with a context of its own (`*ctx`, taken here when it is
    NULL). The caller owns no page: it may have to wait for those who do.
    """
    used: int64_t
    wanted: int64_t
    most: int64_t
    least: int64_t = MOST
    idle: cython.int = 0
    turns: cython.int = 0  # of areas only
    direct: cython.bint = False
    while True:
        used = load64(cython.address(pg.used))
        if used + bytes <= pg.budget:
            if cas64(cython.address(pg.used), used, used + bytes):
                if pg.budget - used - bytes < pg.low:
                    wake(cython.address(pg.reclaim_event))
                return 0
            continue
        if used <= least - 65536:
            # Others make room, though not for us yet: a lower limit may need as much of the file cleaned first.
            least = used
            idle = 0
        if ctx[0] == cython.NULL:
            ctx[0] = context_take(pg)
        if not direct:
            direct = True
            add64(cython.address(pg.counters[C_DIRECT_RECLAIMS]), 1)
        if loadi(cython.address(pg.writers_back)) == 0:
            # Nobody else frees slots in the child of a C library that has forked, until an allocation there starts
            # its threads, nor where they are refused.
            writeback_step(pg, ctx[0], cython.address(turns))
        wanted = bytes if bytes > 65536 else 65536
        if reclaim_batch(pg, ctx[0], wanted) > 0:
            idle = 0
            continue
        idle += 1
        if patience == BRIEF:
            return -1
        # The pool may be what is in the way: of pinned pages, or of data that does not compress.
        if pg.file >= 0 and write_coldest(pg) == 0:
            continue
        most = PATIENCE if loadi(cython.address(pg.disk_error)) == 0 else PATIENCE // 50
        if pg.file < 0:
            # Each time it was pages that do not shrink, maybe: others will, so all are asked before the process ends.
            most += load64(cython.address(pg.resident)) // 65536
        if idle > most:
            if pg.file < 0 or patience == WITHIN:
                return -1
            # Everything is pinned, or the disk does not take it. Stopping here would be a hang.
            add64(cython.address(pg.counters[C_OVERSHOOTS]), 1)
            add64(cython.address(pg.used), bytes)
            return 1
        wake(cython.address(pg.writeback_event))
        backoff(idle if idle <= PATIENCE else 0)


def wait_for_memory(pg, ctx, size, error, turn):
    """The memory cgroup is full at this moment, or there is no mapping left, whoever has them: wait for reclaim to make
    room for a page.
    """
    if error != ENOMEM or turn > 20000:
        die("filling a page", error)
    if ctx == cython.NULL or reclaim_batch(pg, ctx, size) == 0:
        backoff(turn)


def reclaim_thread(argument):
    """Background reclaim between the watermarks, so that faults find room."""
    pg: pager_p = cython.cast(pager_p, argument)
    ctx: context_p = cython.address(pg.contexts[RECLAIM_CONTEXT])
    idle: cython.int
    freed: int64_t
    gate_await(pg)
    while not pg.closing:
        sleep_on(cython.address(pg.reclaim_event), -1)
        idle = 0
        while not pg.closing and pg.budget - load64(cython.address(pg.used)) < pg.high and idle < 100:
            gate_enter(pg)
            freed = reclaim_batch(pg, ctx, FRAME)
            gate_leave(pg)
            if freed > 0:
                idle = 0
            else:
                idle += 1
                backoff(idle)
    return cython.NULL
