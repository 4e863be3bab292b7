"""Huge pages: which chunks are one, and who owns one.

A chunk of 2 MiB that the kernel has as one huge page leaves whole (evict.py) and comes whole (touch.py, bring.py): both
are one UFFDIO_MOVE of some microseconds, where page by page each 4 KiB is allocated, charged, listed and freed by
itself.
"""

import cython
from cython.cimports.frontswap.core.layout import (
    BUSY,
    CHUNK_SHIFT,
    HIGH_SHIFT,
    HUGE_TOUCHES,
    OUT,
    PAGE_TABLE,
    REF,
    STATE,
    page_p,
)
from cython.cimports.frontswap.core.uapi import (
    EINVAL,
    MADV_DONTNEED,
    MADV_POPULATE_WRITE,
    addi,
    and32,
    cas32,
    errno,
    load32,
    madvise,
    or32,
    store32,
    storei,
    uint32_t,
    uint64_t,
)
from cython.cimports.frontswap.core.uffd import die, uffd_bring

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


# --- its memory ----------------------------------------------------------------------------------


def fresh_take(ctx):
    """2 MiB of the kernel's at `ctx.fresh`, paid for by the caller, for what comes as a huge page; False: it has none.

    What has left by `ctx.whole` would be there sooner, for it need not be cleared. But the kernel may have references
    to it that are no pins (vmsplice(2), MSG_ZEROCOPY), and would send what comes next in place of what it was given.
    """
    if madvise(ctx.fresh, PAGE_TABLE, MADV_POPULATE_WRITE) == 0:
        return True
    drop(ctx.fresh)  # a part of it may be there
    return False


def fresh_bring(pg, ctx, at):
    """Move `ctx.fresh` to the absent chunk at `at`, which is one huge page then; 0. EINVAL: nothing has gone, and what
    was to go is the kernel's again; another errno: as of uffd_bring().
    """
    error: cython.int
    # Where a page has been by itself, or a fault, is a page table, for which the kernel splits a huge page. (From 6.14
    # on this frees it; before, all this is as fast as page by page.)
    madvise(cython.cast(cython.p_void, at), PAGE_TABLE, MADV_DONTNEED)
    error = uffd_bring(pg.fd, at, cython.cast(uint64_t, ctx.fresh), PAGE_TABLE)
    if error == EINVAL:
        drop(ctx.fresh)
        addi(cython.address(pg.huge_touches), -1)  # the program has locked the array, say, and not our buffers
    elif error == 0:
        storei(cython.address(pg.huge_touches), HUGE_TOUCHES)
        huge_mark(pg, (at - pg.base) >> CHUNK_SHIFT)
    return error


def drop(data):
    """Give 2 MiB of ours back to the kernel."""
    if madvise(data, PAGE_TABLE, MADV_DONTNEED) != 0:
        die("MADV_DONTNEED", errno)
