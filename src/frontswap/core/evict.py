"""A page's way out: who owns it closes it, takes the bytes, stores them, and gives its frame back.

Pages go in runs and groups where that is as cheap, and huge pages in one piece. out_word is part of the policy that
reclaim.py speaks of.
"""

import cython
from cython.cimports.frontswap.core.frontswap import NOWHERE, frontswap_overwritten, frontswap_store
from cython.cimports.frontswap.core.layout import (
    BUSY,
    C_BUSY_PAGES,
    C_EVICTED_CLEAN,
    C_EVICTED_DIRTY,
    C_EVICTED_HUGE,
    CHUNK_SHIFT,
    CLEAN,
    DIRTY,
    FRAME,
    HIGH_SHIFT,
    HOLES,
    OUT,
    PAGE_TABLE,
    RECORD,
    RECORD_NONE,
    SPLIT,
    STATE,
    UNSURE,
    WHOLE_PAGES,
    block_p,
    bytes_p,
    first_part,
    page_address,
    page_bytes,
    page_p,
    parts_of,
)
from cython.cimports.frontswap.core.region import region_allow, region_close, region_complete, region_fill, region_keep
from cython.cimports.frontswap.core.sums import page_sum
from cython.cimports.frontswap.core.uapi import (
    EBUSY,
    ENOMEM,
    MADV_COLD,
    MADV_DONTNEED,
    add64,
    addi,
    backoff,
    cas32,
    drop_ranges,
    errno,
    int64_t,
    iovec,
    load32,
    load64,
    madvise,
    or32,
    store32,
    uint32_t,
    uint64_t,
)
from cython.cimports.frontswap.core.uffd import die, uffd_move
from cython.cimports.frontswap.core.whole import drop, huge_disown, huge_own, huge_take


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
    turn: cython.int = 0
    if pg.use_move:
        # Its frames come back as they are; a copy would need memory that we do not have.
        error = uffd_move(pg.fd, address, cython.cast(uint64_t, data), size)
        if error:
            while True:
                error = region_fill(pg, address, data, size, False, turn != 0)
                if error != ENOMEM or turn == 20000:
                    break
                # The memory cgroup is full at this moment, as in wait_for_memory().
                backoff(turn)
                turn += 1
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
        if error == EBUSY:
            # Of a huge page whose first 4 KiB were copied for the child: these are what the kernel looks at, for all of
            # it. To make a part of it old has it taken apart, unless a device uses it.
            madvise(cython.cast(cython.p_void, start), size, MADV_COLD)
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


def huge_gone(pg):
    """One of those that were leaving is none any more."""
    addi(cython.address(pg.huge_leaving), -1)


def huge_first(pg, page, low, high):
    """The first page of the huge page that an owned page is a part of, if all of them are the array's and lie in [low,
    high); 0: it is of none. It is of none any more then: if that cannot leave now it does so the ordinary way, for
    good, which splits it.
    """
    block: block_p = cython.address(pg.blocks[pg.pages[page].block])
    at: uint64_t = page_address(pg, page) & ~cython.cast(uint64_t, PAGE_TABLE - 1)
    size: uint64_t = page_bytes(pg, page)
    first: uint32_t
    if pg.huge_most == 0 or not huge_take(pg, (at - pg.base) >> CHUNK_SHIFT):
        return 0
    first = block.first + cython.cast(uint32_t, (at - block.base) // size)
    if (
        at + PAGE_TABLE > block.base + block.pages * size
        or first < low
        or first + cython.cast(uint32_t, PAGE_TABLE // size) > high
    ):
        return 0
    return first


def evict_huge(pg, ctx, page, low, high):
    """Evict the huge page that an owned DIRTY page is a part of, in one piece; the bytes freed.

    Taking a part out of a huge page costs a hundred times more: it is split. 0: nothing has happened, and `page` is
    owned as before; else it is no more. Only if all its pages lie in [low, high).
    """
    size: uint64_t = page_bytes(pg, page)
    n: uint32_t = cython.cast(uint32_t, PAGE_TABLE // size)
    first: uint32_t = huge_first(pg, page, low, high)
    i: uint32_t
    gone: int64_t = 0
    kind: uint32_t
    data: bytes_p
    if first == 0:
        return 0
    if addi(cython.address(pg.huge_leaving), 1) >= pg.huge_most or not huge_own(pg, first, n, page, DIRTY, cython.NULL):
        huge_gone(pg)
        return 0
    if uffd_move(pg.fd, cython.cast(uint64_t, ctx.whole), page_address(pg, first), PAGE_TABLE) != 0:
        huge_disown(pg, first, n, page, DIRTY, cython.NULL)
        huge_gone(pg)
        return 0
    for i in range(n):
        data = ctx.whole + i * size
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
    drop(ctx.whole)
    uncharge(pg, gone)
    huge_gone(pg)
    add64(cython.address(pg.counters[C_EVICTED_DIRTY]), gone // cython.cast(int64_t, size))
    add64(cython.address(pg.counters[C_EVICTED_HUGE]), 1)
    return gone if gone else 1


def evict_huge_clean(pg, ctx, page, state, low, high):
    """evict_huge() of an owned CLEAN page, whose word was `state`.

    What has been written to since before it was protected, by the sums of its pages, goes back and is DIRTY.
    """
    pages: uint32_t[64]
    words: uint32_t[64]
    sum: uint64_t[2]
    size: uint64_t = page_bytes(pg, page)
    n: uint32_t = cython.cast(uint32_t, PAGE_TABLE // size)
    first: uint32_t
    i: uint32_t
    unsure: uint32_t
    gone: cython.int = 0
    if n > WHOLE_PAGES:
        return 0
    first = huge_first(pg, page, low, high)
    if first == 0 or not huge_own(pg, first, n, page, CLEAN, words):
        return 0
    words[page - first] = state
    # If others have come by themselves since, the kernel does not have it in one piece: it may refuse half-way, and
    # what has moved until then comes back without its protection.
    unsure = UNSURE
    for i in range(n):
        unsure &= words[i]
    # Refused: it is in use by a device, or shared with a forked child.
    if unsure == 0 or uffd_move(pg.fd, cython.cast(uint64_t, ctx.whole), page_address(pg, first), PAGE_TABLE) != 0:
        huge_disown(pg, first, n, page, CLEAN, words)
        return 0
    for i in range(n):
        page_sum(ctx.whole + i * size, cython.cast(uint32_t, size), sum)
        if sum[0] != pg.sums[2 * (first + i)] or sum[1] != pg.sums[2 * (first + i) + 1]:
            put_back(pg, ctx.whole + i * size, page_address(pg, first + i), cython.cast(uint32_t, size))
            frontswap_overwritten(pg, first + i, words[i])
            store32(cython.address(pg.pages[first + i].state), dirty_word(words[i]))
            continue
        pages[gone] = first + i
        words[gone] = out_word(pg, words[i] & RECORD)
        gone += 1
    drop(ctx.whole)
    if gone == 0:
        return 1
    add64(cython.address(pg.counters[C_EVICTED_CLEAN]), gone)
    add64(cython.address(pg.counters[C_EVICTED_HUGE]), 1)
    return let_go(pg, pages, words, gone, False)


def dirty_word(state):
    """What becomes of the word of a CLEAN page that gives its record up."""
    return DIRTY | (state & ~cython.cast(uint32_t, STATE | RECORD | UNSURE))


def make_sure(pg, page, state):
    """Have an owned page that is UNSURE be DIRTY, for it leaves alone; False: not now, and it is as it was."""
    if (state[0] & UNSURE) != 0:
        if region_allow(pg, page_address(pg, page), page_bytes(pg, page), False) != 0:
            store32(cython.address(pg.pages[page].state), state[0])
            return False
        frontswap_overwritten(pg, page, state[0])
        state[0] = dirty_word(state[0])
    return True


def evict_page(pg, ctx, page, low, high):
    """Evict one page now if it is resident and nobody uses it, and others of [low, high) where that is as cheap; how
    many have left.
    """
    freed: int64_t
    size: int64_t
    gone: cython.int = 0
    first: uint32_t
    i: uint32_t
    p: page_p = cython.address(pg.pages[page])
    state: uint32_t = load32(cython.address(p.state))
    if (state & STATE) == SPLIT:
        first = first_part(pg, page)
        if first:
            for i in range(first, first + parts_of(pg, page)):
                gone += evict_page(pg, ctx, i, i, i + 1)
        return gone
    if ((state & STATE) != CLEAN and (state & STATE) != DIRTY) or (state >> HIGH_SHIFT) != 0:
        return 0
    if not cas32(cython.address(p.state), state, BUSY):
        return 0
    size = page_bytes(pg, page)
    if (state & STATE) == CLEAN:
        freed = evict_huge_clean(pg, ctx, page, state, low, high)
        if freed:
            return cython.cast(cython.int, freed // size)
        if not make_sure(pg, page, cython.address(state)):
            return 0
    if (state & STATE) == CLEAN:
        return evict_clean(pg, cython.address(page), cython.address(state), 1) > 0
    if not fill_holes_of(pg, page, cython.address(state)):
        return 0
    freed = evict_huge(pg, ctx, page, low, high)
    if freed:
        return cython.cast(cython.int, freed // size)
    return evict_group(pg, ctx, cython.address(page), cython.address(state), 1) > 0


def uncharge(pg, bytes):
    """Give a charge back."""
    add64(cython.address(pg.used), -bytes)
