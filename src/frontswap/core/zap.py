"""Zapping pages: their frames and their records go, and they read as zeros. For arrays that are freed, and advice."""

import cython
from cython.cimports.frontswap.core.evict import uncharge
from cython.cimports.frontswap.core.frontswap import frontswap_invalidate_page
from cython.cimports.frontswap.core.gate import gate_enter, gate_leave
from cython.cimports.frontswap.core.layout import (
    BUSY,
    CLEAN,
    DIRTY,
    HIGH_SHIFT,
    NONE,
    SPLIT,
    STATE,
    first_part,
    page_p,
    parts_of,
)
from cython.cimports.frontswap.core.region import region_close
from cython.cimports.frontswap.core.uapi import (
    MADV_DONTNEED,
    add64,
    backoff,
    block_signals,
    cas32,
    errno,
    int64_t,
    load32,
    load64,
    loadi,
    madvise,
    restore_signals,
    sigset_t,
    store32,
    uint32_t,
    uint64_t,
)
from cython.cimports.frontswap.core.uffd import die

ZAP_RUN = cython.declare(cython.uint, 256)


def mapped(pg):
    """Bytes of all arrays, as if all of them were in RAM."""
    loose: int64_t = load64(cython.address(pg.loose))
    return load64(cython.address(pg.allocated)) + load64(cython.address(pg.spare_bytes)) + loose


def zap_unregistered(pg, low, high, zeros):
    """madvise(2), MADV_DONTNEED (`zeros`) or MADV_FREE, of what lies in an array, to 4 KiB; False: it is registered.

    No page has a state then, and nobody but the kernel knows what is there. MADV_FREE is a hint, and jemalloc gives it
    for what it will mostly use again: it is not followed while half of the limit is free, which spares the faults. (The
    kernel's would not do: a page that it may take away at any moment must not have a state.)
    """
    unregistered: cython.bint
    signals: sigset_t
    block_signals(cython.address(signals))
    gate_enter(pg)
    unregistered = loadi(cython.address(pg.registered)) == 0
    if unregistered and (zeros or mapped(pg) > pg.budget / 2):
        if madvise(cython.cast(cython.p_void, low), high - low, MADV_DONTNEED) != 0:
            die("MADV_DONTNEED", errno)
    gate_leave(pg)
    restore_signals(cython.address(signals))
    return unregistered


def zap_run(pg, block, first, count, resident, untouched):
    """Give back the frames of owned neighbours whose records are dropped; they become NONE, as `untouched` were."""
    i: uint32_t
    size: uint64_t
    address: uint64_t
    error: cython.int
    if count == 0:
        return
    size = cython.cast(uint64_t, 1) << block.shift
    address = block.base + (first - block.first) * size
    error = region_close(pg, address, size * count, True)
    if error:
        die("mprotect", error)
    if madvise(cython.cast(cython.p_void, address), size * count, MADV_DONTNEED) != 0:
        die("MADV_DONTNEED", errno)
    if resident:
        uncharge(pg, size * resident)
        add64(cython.address(pg.resident), -cython.cast(int64_t, size * resident))
    if block.loose:
        add64(cython.address(pg.allocated), -cython.cast(int64_t, size * (count - untouched)))
    for i in range(count):
        store32(cython.address(pg.pages[first + i].state), NONE)


def pager_zap(pg, block, first, count, freeing):
    """Drop pages with their records: they read as zeros afterwards. Waits for who works on them.

    Pinned pages stay as they are unless the array is `freeing`; their number is returned.
    """
    i: uint32_t = 0
    pinned: uint32_t = 0
    run: uint32_t = 0
    resident: uint32_t = 0
    untouched: uint32_t = 0
    state: uint32_t
    stay: uint32_t
    turn: cython.int = 0
    p: page_p
    if loadi(cython.address(pg.registered)) == 0:
        # No page has a state, and nobody but the kernel knows what is there. We are inside the gate: that stays so.
        if madvise(
            cython.cast(cython.p_void, block.base + (cython.cast(uint64_t, first - block.first) << block.shift)),
            cython.cast(uint64_t, count) << block.shift,
            MADV_DONTNEED,
        ):
            die("MADV_DONTNEED", errno)
        return 0
    while i < count:
        p = cython.address(pg.pages[first + i])
        state = load32(cython.address(p.state))
        if (state & STATE) == BUSY:
            # Nobody who owns a page waits for another: let go of the run first.
            zap_run(pg, block, first + i - run, run, resident, untouched)
            run = resident = untouched = 0
            backoff(turn)
            turn += 1
            continue
        if (state & STATE) == NONE and run == 0:
            i += 1
            continue
        if (state & STATE) == SPLIT:
            zap_run(pg, block, first + i - run, run, resident, untouched)
            run = resident = untouched = 0
            # Owned while its parts go: who would use one now sees that, and lets go. (Who owns a part waits for nobody,
            # so it may be waited for.)
            if not cas32(cython.address(p.state), state, BUSY):
                continue
            stay = pager_zap(
                pg,
                cython.address(pg.blocks[block.parts]),
                first_part(pg, first + i),
                parts_of(pg, first + i),
                freeing,
            )
            pinned += stay != 0
            store32(cython.address(p.state), SPLIT if stay else NONE)
            i += 1
            continue
        if (state & STATE) == DIRTY and (state >> HIGH_SHIFT) != 0 and not freeing:
            zap_run(pg, block, first + i - run, run, resident, untouched)
            run = resident = untouched = 0
            pinned += 1
            i += 1
            continue
        if not cas32(cython.address(p.state), state, BUSY):
            continue
        turn = 0
        if (state & STATE) == CLEAN or (state & STATE) == DIRTY:
            resident += 1
            if (state >> HIGH_SHIFT) != 0:
                add64(cython.address(pg.pinned), -(cython.cast(int64_t, 1) << block.shift))
        elif (state & STATE) == NONE:
            untouched += 1
        frontswap_invalidate_page(pg, first + i, state)
        run += 1
        i += 1
        if run == ZAP_RUN:
            zap_run(pg, block, first + i - run, run, resident, untouched)
            run = resident = untouched = 0
    zap_run(pg, block, first + i - run, run, resident, untouched)
    return pinned
