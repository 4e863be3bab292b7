"""Reclaim: which resident page leaves next, and its way out.

The queue is first in, first out with a second chance: a page that came back soon after it had left
(its refault distance is below what fits in RAM, as in mm/workingset.c) carries REF and goes round once
more. There are no accessed bits to look at in user space; refaults are what we can see. The policy is
queue_add, queue_pop and out_word: another one replaces these three.

Races: a page may leave the queue's idea of the world (freed, evicted by advice) and stay in the list;
who pops it looks at its state word. A page is in the list at most once (page_t.next), and is put in
after its state is stored, so a resident page is always in the list or in the hands of who popped it.
"""

import cython
from cython.cimports.frontswap.core.contexts import context_take
from cython.cimports.frontswap.core.frontswap import NOWHERE, frontswap_store
from cython.cimports.frontswap.core.gate import gate_await, gate_enter, gate_leave
from cython.cimports.frontswap.core.layout import (
    BUSY,
    C_BUSY_PAGES,
    C_DIRECT_RECLAIMS,
    C_EVICTED_CLEAN,
    C_EVICTED_DIRTY,
    C_EVICTED_HUGE,
    C_OVERSHOOTS,
    CHUNK_SHIFT,
    CLEAN,
    DIRTY,
    FRAME,
    HIGH_SHIFT,
    HOLES,
    NONE,
    OUT,
    PAGE_TABLE,
    POISON,
    QUEUE_END,
    RECLAIM_CONTEXT,
    RECORD,
    RECORD_NONE,
    REF,
    STATE,
    block_p,
    bytes_p,
    context_p,
    page_address,
    page_bytes,
    page_p,
    pager_p,
)
from cython.cimports.frontswap.core.region import region_allow, region_close, region_complete, region_fill, region_keep
from cython.cimports.frontswap.core.segments import write_coldest
from cython.cimports.frontswap.core.uapi import (
    EBUSY,
    ENOMEM,
    MADV_DONTNEED,
    add64,
    addi,
    and32,
    backoff,
    cas32,
    cas64,
    drop_ranges,
    errno,
    int64_t,
    iovec,
    load32,
    load64,
    loadi,
    lock,
    madvise,
    or32,
    sleep_on,
    store32,
    uint32_t,
    uint64_t,
    unlock,
    wake,
)
from cython.cimports.frontswap.core.uffd import die, uffd_move
from cython.cimports.frontswap.core.writeback import writeback_step

BATCH = cython.declare(cython.int, 64)  # pages taken out of the queue under one lock


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
    lock(cython.address(pg.queue_lock))
    if pg.pages[page].next == 0:
        queue_push(pg, page)
    unlock(cython.address(pg.queue_lock))


def out_word(pg, kind):
    """The state word of a page that leaves now: OUT, its record, and when it left."""
    epoch: uint32_t = cython.cast(uint32_t, load64(cython.address(pg.evicted)) // pg.epoch_bytes) & 0xFFFF
    return OUT | kind | (epoch << HIGH_SHIFT)


def let_go(pg, pages, words, n, drop):
    """The end of an eviction: owned pages (64 at most) get their new state words; the bytes freed.

    `drop`: their frames are in their places still, and are given back first, with one call.
    """
    ranges: iovec[64]
    start: uint64_t
    size: uint64_t
    end: uint64_t = 0
    freed: int64_t = 0
    runs: cython.int = 0
    i: cython.int
    error: cython.int
    for i in range(n):
        start = page_address(pg, pages[i])
        size = page_bytes(pg, pages[i])
        if runs and start == end:
            ranges[runs - 1].iov_len += size
        else:
            ranges[runs].iov_base = cython.cast(cython.p_void, start)
            ranges[runs].iov_len = size
            runs += 1
        end = start + size
        freed += size
    if drop and runs:
        error = drop_ranges(ranges, runs)
        if error:
            die("MADV_DONTNEED", error)
    # Uncharged before the states are stored: a free that follows must find the pages paid for once.
    uncharge(pg, freed)
    add64(cython.address(pg.resident), -freed)
    add64(cython.address(pg.evicted), freed)
    for i in range(n):
        store32(cython.address(pg.pages[pages[i]].state), words[i])
    return freed


def run_from(pg, pages, i, n):
    """The end of the run of neighbours of one size that begins with pages[i]; a page table ends it: see uffd_move()."""
    size: uint64_t = page_bytes(pg, pages[i])
    j: cython.int = i + 1
    while (
        j < n
        and page_bytes(pg, pages[j]) == size
        and page_address(pg, pages[j]) == page_address(pg, pages[i]) + size * (j - i)
        and page_address(pg, pages[j]) % PAGE_TABLE != 0
    ):
        j += 1
    return j


def close_clean(pg, pages, states, n):
    """Keep readers away from owned CLEAN pages that are about to leave; how many, which are the first then. The others
    are CLEAN as before: there is no mapping for the hole that they would leave.
    """
    closed: cython.int = 0
    left: cython.int = 0
    others: uint32_t[64]
    i: cython.int = 0
    j: cython.int
    k: cython.int
    size: uint64_t
    error: cython.int
    while i < n:
        j = run_from(pg, pages, i, n)
        size = page_bytes(pg, pages[i])
        error = region_close(pg, page_address(pg, pages[i]), size * (j - i), False)
        for k in range(i, j):
            if error == 0 or region_close(pg, page_address(pg, pages[k]), size, False) == 0:
                pages[closed] = pages[k]
                states[closed] = states[k]
                closed += 1
            else:
                store32(cython.address(pg.pages[pages[k]].state), states[k])
                others[left] = pages[k]
                left += 1
        i = j
    for k in range(left):
        pages[closed + k] = others[k]
    return closed


def evict_clean(pg, pages, states, n):
    """Evict owned CLEAN pages (64 at most); the bytes freed. Those that could not leave are the last then."""
    words: uint32_t[64]
    i: cython.int
    n = close_clean(pg, pages, states, n)
    for i in range(n):
        words[i] = out_word(pg, states[i] & RECORD)
    add64(cython.address(pg.counters[C_EVICTED_CLEAN]), n)
    return let_go(pg, pages, words, n, True)


def put_back(pg, data, address, size):
    """A page that nobody took returns to its place, as DIRTY as it was."""
    error: cython.int
    if pg.use_move:
        # Its frames come back as they are; a copy would need memory that we do not have.
        error = uffd_move(pg.fd, address, cython.cast(uint64_t, data), size)
        if error:
            error = region_fill(pg, address, data, size, False)
            madvise(cython.cast(cython.p_void, data), size, MADV_DONTNEED)
    else:
        error = region_allow(pg, address, size, True)
    if error:
        die("page could not be put back", error)


def take_run(pg, to, pages, states, n, data):
    """Take owned DIRTY neighbours away from their writers, with one call for all: it interrupts every other
    processor that runs a thread of ours (the TLB must be flushed there).

    With MOVE their frames are at `to` afterwards, without they stay, write-protected. `data[i]` is where the
    bytes are; NULL: the page is in use by the kernel (or cannot be protected now), and is DIRTY again.
    """
    start: uint64_t = page_address(pg, pages[0])
    size: uint64_t = page_bytes(pg, pages[0])
    i: cython.int
    j: uint64_t
    error: cython.int
    if pg.use_move:
        error = uffd_move(pg.fd, cython.cast(uint64_t, to), start, size * n)
    else:
        to = cython.cast(bytes_p, start)
        error = region_keep(pg, start, size * n)
        if error and error != ENOMEM:
            die("write protection", error)
    if error and n > 1:  # one of them is in use, or no mapping is left for all: the others can go
        for i in range(n):
            take_run(pg, to + size * i, pages + i, states + i, 1, data + i)
        return
    if error == EBUSY:
        # Shared with a forked child, also one that has ended: until it is written once. A page that is DIRTY and
        # ours may be touched; a CLEAN one never, we would wait for ourselves.
        for j in range(size // 4096):
            or32(cython.cast(cython.pointer(uint32_t), start + j * 4096), 0)
        error = uffd_move(pg.fd, cython.cast(uint64_t, to), start, size)
    if error:
        add64(cython.address(pg.counters[C_BUSY_PAGES]), 1)
        data[0] = cython.NULL
        store32(cython.address(pg.pages[pages[0]].state), states[0])
        return
    for i in range(n):
        data[i] = to + size * i


def evict_group(pg, ctx, pages, states, n):
    """Evict owned DIRTY pages of one size, sorted, that fit in the frame together; the bytes freed.

    Pages that stay are DIRTY again. All frames are given back with one call, as they are taken.
    """
    data: bytes_p[64]
    left: uint32_t[64]
    words: uint32_t[64]
    size: uint64_t = page_bytes(pg, pages[0])
    kind: uint32_t
    gone: cython.int = 0
    error: cython.int
    i: cython.int = 0
    j: cython.int
    while i < n:
        j = run_from(pg, pages, i, n)
        take_run(pg, ctx.frame + size * i, pages + i, states + i, j - i, data + i)
        i = j
    for i in range(n):
        if data[i] == cython.NULL:
            continue
        kind = RECORD_NONE
        if frontswap_store(pg, ctx, pages[i], data[i], states[i], cython.address(kind)) <= NOWHERE:
            put_back(pg, data[i], page_address(pg, pages[i]), page_bytes(pg, pages[i]))
            store32(cython.address(pg.pages[pages[i]].state), states[i])
            continue
        left[gone] = pages[i]
        words[gone] = out_word(pg, kind)
        gone += 1
    if pg.use_move and madvise(ctx.frame, size * n, MADV_DONTNEED) != 0:
        die("MADV_DONTNEED", errno)
    if not pg.use_move:
        i = 0
        while i < gone:
            j = run_from(pg, left, i, gone)
            # Nobody can wait for long here: these mappings are separate by now, and nothing more is needed.
            error = region_close(pg, page_address(pg, left[i]), size * (j - i), True)
            if error:
                die("mprotect", error)
            i = j
    add64(cython.address(pg.counters[C_EVICTED_DIRTY]), gone)
    return let_go(pg, left, words, gone, not pg.use_move)


def evict_dirty(pg, ctx, pages, states, n):
    """Evict owned DIRTY pages, neighbours together; the bytes freed. Sorts `pages` and `states`.

    Sorted, because not all programs touch them upwards: glibc's memcpy goes down when source and target
    have the same place in their pages.
    """
    i: cython.int
    j: cython.int
    page: uint32_t
    state: uint32_t
    size: uint64_t
    total: uint64_t
    freed: int64_t = 0
    for i in range(1, n):
        page = pages[i]
        state = states[i]
        j = i
        while j > 0 and pages[j - 1] > page:
            pages[j] = pages[j - 1]
            states[j] = states[j - 1]
            j -= 1
        pages[j] = page
        states[j] = state
    i = 0
    while i < n:
        size = total = page_bytes(pg, pages[i])
        j = i + 1
        # Of one size: a small page and a large one together could be more than the reserve has for this context.
        while j < n and total + size <= FRAME and page_bytes(pg, pages[j]) == size:
            total += size
            j += 1
        freed += evict_group(pg, ctx, pages + i, states + i, j - i)
        i = j
    return freed


def fill_holes_of(pg, page, state):
    """Fill the absent parts of an owned page that is about to leave: they would be absent in the frame, too.

    False: there is no memory for that now, and the page is as it was.
    """
    if (state[0] & HOLES) != 0:
        if region_complete(pg, page_address(pg, page), page_bytes(pg, page)) != 0:
            store32(cython.address(pg.pages[page].state), state[0])
            return False
        state[0] &= ~cython.cast(uint32_t, HOLES)
    return True


def huge_own(pg, first, n, owned):
    """Own the pages of a huge page beside `owned`, which is; False if that cannot be, and all are as they were.

    Nobody waits here: the first that is not just DIRTY ends it.
    """
    i: uint32_t
    state: uint32_t
    p: page_p
    for i in range(n):
        p = cython.address(pg.pages[first + i])
        if first + i == owned:
            continue
        state = load32(cython.address(p.state))
        if (state & ~cython.cast(uint32_t, REF)) != DIRTY or not cas32(cython.address(p.state), state, BUSY):
            huge_disown(pg, first, i, owned)
            return False
    return True


def huge_disown(pg, first, n, owned):
    """End of huge_own(), for `n` pages of it. (That they came back soon, REF, is forgotten.)"""
    i: uint32_t
    for i in range(n):
        if first + i != owned:
            store32(cython.address(pg.pages[first + i].state), DIRTY)


def evict_huge(pg, ctx, page, low, high):
    """Evict the huge page that an owned DIRTY page is a part of, in one piece; the bytes freed.

    Taking a part out of a huge page costs a hundred times more: it is split. 0: nothing has happened, and `page` is
    owned as before; else it is no more. Only if all its pages lie in [low, high).
    """
    block: block_p = cython.address(pg.blocks[pg.pages[page].block])
    at: uint64_t = page_address(pg, page) & ~cython.cast(uint64_t, PAGE_TABLE - 1)
    size: uint64_t = page_bytes(pg, page)
    chunk: uint64_t = (at - pg.base) >> CHUNK_SHIFT
    bit: uint32_t = cython.cast(uint32_t, 1) << (chunk % 32)
    first: uint32_t
    n: uint32_t = cython.cast(uint32_t, PAGE_TABLE // size)
    i: uint32_t
    gone: int64_t = 0
    kind: uint32_t
    data: bytes_p
    if pg.huge_most == 0 or (load32(cython.address(pg.huge[chunk // 32])) & bit) == 0:
        return 0
    if at + PAGE_TABLE > block.base + block.pages * size:
        return 0
    first = block.first + cython.cast(uint32_t, (at - block.base) // size)
    if first < low or first + n > high:
        return 0
    if addi(cython.address(pg.huge_leaving), 1) >= pg.huge_most:
        addi(cython.address(pg.huge_leaving), -1)
        return 0
    # Whoever clears the bit does it; if it cannot be done now it is done the ordinary way, for good.
    if (and32(cython.address(pg.huge[chunk // 32]), ~bit) & bit) == 0 or not huge_own(pg, first, n, page):
        addi(cython.address(pg.huge_leaving), -1)
        return 0
    if uffd_move(pg.fd, cython.cast(uint64_t, ctx.frame), at, PAGE_TABLE) != 0:
        huge_disown(pg, first, n, page)
        addi(cython.address(pg.huge_leaving), -1)
        return 0
    for i in range(n):
        data = ctx.frame + i * size
        kind = RECORD_NONE
        if frontswap_store(pg, ctx, first + i, data, DIRTY, cython.address(kind)) <= NOWHERE:
            put_back(pg, data, page_address(pg, first + i), cython.cast(uint32_t, size))
            store32(cython.address(pg.pages[first + i].state), DIRTY)
            continue
        # Each is OUT as soon as it is stored: who wants the first one need not wait for the last. All stay charged
        # until their frame is given back.
        gone += size
        add64(cython.address(pg.resident), -cython.cast(int64_t, size))
        add64(cython.address(pg.evicted), size)
        store32(cython.address(pg.pages[first + i].state), out_word(pg, kind))
    if madvise(ctx.frame, PAGE_TABLE, MADV_DONTNEED) != 0:
        die("MADV_DONTNEED", errno)
    uncharge(pg, gone)
    addi(cython.address(pg.huge_leaving), -1)
    add64(cython.address(pg.counters[C_EVICTED_DIRTY]), gone // cython.cast(int64_t, size))
    add64(cython.address(pg.counters[C_EVICTED_HUGE]), 1)
    return gone if gone else 1


def evict_page(pg, ctx, page, low, high):
    """Evict one page now if it is resident and nobody uses it, and others of [low, high) where that is as cheap; how
    many have left.
    """
    freed: int64_t
    size: int64_t
    p: page_p = cython.address(pg.pages[page])
    state: uint32_t = load32(cython.address(p.state))
    if ((state & STATE) != CLEAN and (state & STATE) != DIRTY) or (state >> HIGH_SHIFT) != 0:
        return 0
    if not cas32(cython.address(p.state), state, BUSY):
        return 0
    if (state & STATE) == CLEAN:
        return evict_clean(pg, cython.address(page), cython.address(state), 1) > 0
    if not fill_holes_of(pg, page, cython.address(state)):
        return 0
    size = page_bytes(pg, page)
    freed = evict_huge(pg, ctx, page, low, high)
    if freed:
        return cython.cast(cython.int, freed // size)
    return evict_group(pg, ctx, cython.address(page), cython.address(state), 1) > 0


def reclaim_batch(pg, ctx, want):
    """Evict the next pages of the queue, about `want` bytes; the bytes freed (0: nothing would go)."""
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
        if (state & STATE) in (NONE, OUT, POISON):
            continue  # freed, or evicted by advice
        if (state & STATE) != BUSY and (state >> HIGH_SHIFT) == 0:
            if (state & REF) != 0:
                # Its second chance. A lost swap means that somebody uses it: the same answer.
                cas32(cython.address(p.state), state, state & ~cython.cast(uint32_t, REF))
            elif cas32(cython.address(p.state), state, BUSY):
                if (state & STATE) == CLEAN:
                    clean[cleans] = page
                    clean_states[cleans] = state
                    cleans += 1
                    continue
                if fill_holes_of(pg, page, cython.address(state)):
                    huge = evict_huge(pg, ctx, page, 0, QUEUE_END)
                    if huge == 0:
                        dirty[dirties] = page
                        dirty_states[dirties] = state
                        dirties += 1
                        continue
                    freed += huge
                    if (load32(cython.address(p.state)) & STATE) != DIRTY:
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


def uncharge(pg, bytes):
    """Give a charge back."""
    add64(cython.address(pg.used), -bytes)


def charge(pg, ctx, bytes, patience):
    """Charge `bytes` to the limit before they are used: 0; 1 overshot (counted); -1 nothing is left.

    BRIEF gives up when nothing leaves at once, PATIENT waits for others and overshoots in the end.

    Above the limit the caller evicts first, with a context of its own (`*ctx`, taken here when it is
    NULL). The caller owns no page: it may have to wait for those who do.
    """
    used: int64_t
    wanted: int64_t
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
        if idle > (PATIENCE if loadi(cython.address(pg.disk_error)) == 0 else PATIENCE // 50):
            if pg.file < 0:
                return -1
            # Everything is pinned, or the disk does not take it. Stopping here would be a hang.
            add64(cython.address(pg.counters[C_OVERSHOOTS]), 1)
            add64(cython.address(pg.used), bytes)
            return 1
        wake(cython.address(pg.writeback_event))
        backoff(idle)


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
