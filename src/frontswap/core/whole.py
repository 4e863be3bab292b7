"""Huge pages: which chunks are one, who owns one, and the memory that they come and go in.

A chunk of 2 MiB that the kernel has as one huge page leaves whole (evict.py) and comes whole (touch.py, bring.py): both
are one UFFDIO_MOVE of some microseconds, where page by page each 4 KiB is allocated, charged, listed and freed by
itself.

Frames: what has left needs not go back to the kernel, to be allocated and cleared anew for what comes next (which takes
longer than all else that is done for it). A frame is 2 MiB of registered addresses, EMPTY or FULL; some FULL ones are
kept, as many as may leave at the same time, and are set aside from the limit (reserve_bytes()). Their bytes are
anybody's: who takes one writes all of it.
"""

import cython
from cython.cimports.frontswap.core.layout import (
    BUSY,
    FRAME_EMPTY,
    FRAME_FULL,
    FRAME_TAKEN,
    HIGH_SHIFT,
    MAX_FRAMES,
    OUT,
    PAGE_TABLE,
    REF,
    STATE,
    bytes_p,
    page_p,
)
from cython.cimports.frontswap.core.uapi import (
    MADV_DONTNEED,
    MADV_POPULATE_WRITE,
    addi,
    and32,
    cas32,
    casi,
    errno,
    load32,
    loadi,
    madvise,
    or32,
    store32,
    storei,
    uint32_t,
    uint64_t,
)
from cython.cimports.frontswap.core.uffd import die

# --- who owns one --------------------------------------------------------------------------------


def huge_own(pg, first, n, owned, word, words):
    """Own the pages of a huge page beside `owned`, which is (0: none is); False if that cannot be, and all are as they
    were.

    Nobody waits here: the first page that is not so ends it. Without `words` each has just this state word; with them
    each is in this state and not pinned, and what its word was is noted there.
    """
    i: uint32_t
    state: uint32_t
    p: page_p
    for i in range(n):
        p = cython.address(pg.pages[first + i])
        if first + i == owned:
            continue
        state = load32(cython.address(p.state))
        if not is_so(state, word, words != cython.NULL) or not cas32(cython.address(p.state), state, BUSY):
            huge_disown(pg, first, i, owned, word, words)
            return False
        if words != cython.NULL:
            words[i] = state
    return True


def is_so(state, word, any_record):
    """Is a page as huge_own() wants it?"""
    if not any_record:
        return (state & ~cython.cast(uint32_t, REF)) == word
    return (state & STATE) == word and (word == OUT or (state >> HIGH_SHIFT) == 0)


def huge_disown(pg, first, n, owned, word, words):
    """End of huge_own(), for `n` pages of it. (Without `words`, that they came back soon, REF, is forgotten.)"""
    i: uint32_t
    for i in range(n):
        if first + i != owned:
            store32(cython.address(pg.pages[first + i].state), word if words == cython.NULL else words[i])


def huge_mark(pg, chunk):
    """A chunk is one huge page from now on."""
    or32(cython.address(pg.huge[chunk // 32]), cython.cast(uint32_t, 1) << (chunk % 32))


def huge_is(pg, chunk):
    """True if a chunk is one huge page, as far as is known."""
    return (load32(cython.address(pg.huge[chunk // 32])) >> (chunk % 32)) & 1


def huge_take(pg, chunk):
    """True if a chunk is one huge page still. It is none any more then: of all who ask, one is told so."""
    bit: uint32_t = cython.cast(uint32_t, 1) << (chunk % 32)
    return huge_is(pg, chunk) and (and32(cython.address(pg.huge[chunk // 32]), ~bit) & bit) != 0


# --- frames --------------------------------------------------------------------------------------


def frame_number(pg, frame):
    """Which frame it is."""
    return cython.cast(cython.int, (cython.cast(uint64_t, frame) - cython.cast(uint64_t, pg.frames)) // PAGE_TABLE)


def frame_take(pg, wanted):
    """A frame that is EMPTY, or FULL, for the caller alone; NULL: there is none."""
    i: cython.int
    for i in range(MAX_FRAMES):
        if loadi(cython.address(pg.frame_state[i])) == wanted and casi(
            cython.address(pg.frame_state[i]), wanted, FRAME_TAKEN
        ):
            if wanted == FRAME_FULL:
                addi(cython.address(pg.frames_kept), -1)
            return pg.frames + cython.cast(uint64_t, i) * PAGE_TABLE
    return cython.NULL


def frame_for(pg):
    """An EMPTY frame for a huge page that leaves; NULL: there is none.

    Small pages may have been in it, and what is left of their page table would have the next huge page split (from 6.14
    on this frees it).
    """
    frame: bytes_p = frame_take(pg, FRAME_EMPTY)
    if frame != cython.NULL:
        drop(frame)
    return frame


def frame_gone(pg, frame):
    """What was in a frame has been moved to its place."""
    storei(cython.address(pg.frame_state[frame_number(pg, frame)]), FRAME_EMPTY)


def frame_give(pg, frame, whole):
    """A frame is not used any more, and keeps its memory if that is `whole` and few others do."""
    if whole and addi(cython.address(pg.frames_kept), 1) < pg.huge_most:
        storei(cython.address(pg.frame_state[frame_number(pg, frame)]), FRAME_FULL)
        # In this order: who lowers huge_most does that first and looks for FULL ones then.
        if loadi(cython.address(pg.frames_kept)) > loadi(cython.address(pg.huge_most)):
            frames_trim(pg, loadi(cython.address(pg.huge_most)))
        return
    if whole:
        addi(cython.address(pg.frames_kept), -1)
    drop(frame)
    frame_gone(pg, frame)


def frames_trim(pg, most):
    """Give the memory of all but `most` FULL frames back."""
    frame: bytes_p
    while loadi(cython.address(pg.frames_kept)) > most:
        frame = frame_take(pg, FRAME_FULL)
        if frame == cython.NULL:
            return
        drop(frame)
        frame_gone(pg, frame)


# --- what comes ----------------------------------------------------------------------------------


def fresh_take(pg, ctx):
    """2 MiB for what comes as a huge page, paid for by the caller: a FULL frame, or what the kernel has; NULL: nothing.
    All of it is to be written.
    """
    frame: bytes_p = frame_take(pg, FRAME_FULL)
    if frame != cython.NULL:
        return frame
    if madvise(ctx.fresh, PAGE_TABLE, MADV_POPULATE_WRITE) == 0:
        return ctx.fresh
    drop(ctx.fresh)  # a part of it may be there
    return cython.NULL


def fresh_gone(pg, ctx, data):
    """It has been moved to its place, whole."""
    if data != ctx.fresh:
        frame_gone(pg, data)


def fresh_give(pg, ctx, data, whole):
    """It has not been used after all, or not all of it."""
    if data != ctx.fresh:
        frame_give(pg, data, whole)
    else:
        drop(data)


def drop(data):
    """Give 2 MiB of ours back to the kernel."""
    if madvise(data, PAGE_TABLE, MADV_DONTNEED) != 0:
        die("MADV_DONTNEED", errno)
