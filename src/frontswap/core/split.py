"""Pages that follow access: of an array that is read at random they leave in parts of 4 KiB, and come back one by one;
of one that is walked along they leave whole again.

Only for arrays whose page nobody has said ("auto"), and page by page, by who owns the page: nothing stops the world.
What an array wants is judged by its faults (lean() in streams.py), or said by advice. A page that is resident is split,
and made whole, by new words alone, its bytes stay where they are: 64 KiB that one page owns are owned by 16 then. So at
no moment there are two truths, and what is charged stays what it is. It is done when the page leaves, when it would be
packed anyway; what leaves clean gives its record up for that, once. (As mm/huge_memory.c splits what reclaim takes, and
mm/khugepaged.c collapses it.)

What leaves clean stays as it is where the program has protected, or unmapped, something of the array: dirty it could
not leave what may not be written (UFFDIO_MOVE).

Races: the parts of a page that is not SPLIT are NONE, or for a moment BUSY: by a fault that has seen it SPLIT before,
and looks again (pager.part_holds()). Nobody waits for that here; the page leaves as it is.
"""

import cython
from cython.cimports.frontswap.core.evict import evict_group
from cython.cimports.frontswap.core.frontswap import frontswap_invalidate_page
from cython.cimports.frontswap.core.layout import (
    ADVICE_NORMAL,
    ADVICE_RANDOM,
    BUSY,
    C_COLLAPSES,
    C_FAULTS,
    C_SPLITS,
    CLEAN,
    DIRTY,
    HIGH_SHIFT,
    HOLES,
    MIN_PAGE,
    MOST_PARTS,
    NONE,
    RECLAIM_CONTEXT,
    REF,
    SPLIT,
    STATE,
    block_p,
    first_part,
    page_address,
    page_bytes,
    page_p,
    parts_of,
)
from cython.cimports.frontswap.core.region import region_allow
from cython.cimports.frontswap.core.swapfile import swap_tight
from cython.cimports.frontswap.core.uapi import (
    add64,
    cas32,
    int64_t,
    load32,
    load64,
    loadi,
    store32,
    uint32_t,
)

MIXED = cython.declare(int64_t, 2654435761)


def wants_parts(pg, block):
    """True if pages of an array are to be split, and not to be made whole."""
    if block.parts == 0:
        return False
    if pg.splits_any:
        return ((load64(cython.address(pg.counters[C_FAULTS])) * MIXED >> 16) & 1) != 0
    if block.advice != ADVICE_NORMAL:
        return block.advice == ADVICE_RANDOM
    return block.small != 0


def disk_has_room(pg):
    """False when slots are short, the disk does not take what it is given, or nothing more is to be written to it: no
    record is given up for new ones.
    """
    return (
        loadi(cython.address(pg.disk_error)) == 0 and loadi(cython.address(pg.write_spent)) == 0 and not swap_tight(pg)
    )


def may_repack(pg, ctx):
    """True if what would leave clean may be packed anew: by the thread that reclaims in the background, so no fault
    waits for it, and as long as what it writes leaves the pool as fast as it comes.
    """
    if pg.splits_any:
        return True
    return ctx == cython.address(pg.contexts[RECLAIM_CONTEXT]) and (
        load64(cython.address(pg.pool_bytes)) <= pg.pool_soft + 2 * cython.cast(int64_t, pg.segment_bytes)
    )


def split_untouched(pg, number, page):
    """Split an owned page that was NONE: none of its parts has been touched."""
    pg.pages[page].block = number
    add64(cython.address(pg.counters[C_SPLITS]), 1)
    store32(cython.address(pg.pages[page].state), SPLIT)


def split_evict(pg, ctx, page, state):
    """Evict an owned resident page, whose word was `state`, in parts; the bytes freed. -1: it is none to be split, or
    cannot be now, and is owned as before. Parts that would not go are DIRTY, and not queued.
    """
    parts: uint32_t[MOST_PARTS]
    words: uint32_t[MOST_PARTS]
    block: block_p = cython.address(pg.blocks[pg.pages[page].block])
    first: uint32_t
    count: uint32_t
    i: uint32_t
    if not wants_parts(pg, block) or not disk_has_room(pg):
        return -1
    if (state & STATE) == CLEAN and (block.marked or not may_repack(pg, ctx)):
        return -1
    first = first_part(pg, page)
    count = parts_of(pg, page)
    for i in range(count):
        if not cas32(cython.address(pg.pages[first + i].state), NONE, BUSY):
            disown(pg, first, words, i, page)
            return -1
        words[i] = NONE
    # In this order: an un-protected page whose record is valid would be dropped with what is written to it now.
    if (state & STATE) == CLEAN:
        if region_allow(pg, page_address(pg, page), page_bytes(pg, page), False) != 0:
            disown(pg, first, words, count, page)
            return -1
        frontswap_invalidate_page(pg, page, state)
    for i in range(count):
        pg.pages[first + i].block = block.parts
        parts[i] = first + i
        words[i] = DIRTY
    add64(cython.address(pg.counters[C_SPLITS]), 1)
    store32(cython.address(pg.pages[page].state), SPLIT)
    return evict_group(pg, ctx, parts, words, cython.cast(cython.int, count))


def disown(pg, first, words, count, owned):
    """Give the first `count` parts their words back, but for `owned`, which its owner keeps."""
    i: uint32_t
    for i in range(count):
        if first + i != owned:
            store32(cython.address(pg.pages[first + i].state), words[i])


def collapse(pg, ctx, page, state):
    """From an owned resident part, whose word was `state`, to its page, whole, DIRTY and owned: its number. 0: it is no
    part of a page to be made whole, or cannot be now, and is owned as before.
    """
    words: uint32_t[MOST_PARTS]
    parts: block_p = cython.address(pg.blocks[pg.pages[page].block])
    block: block_p = cython.address(pg.blocks[parts.whole])
    first: uint32_t
    whole: uint32_t
    count: uint32_t
    i: uint32_t
    word: uint32_t
    clean: cython.bint = False
    repack: cython.bint
    p: page_p
    if parts.whole == 0 or wants_parts(pg, block) or not disk_has_room(pg):
        return 0
    repack = block.marked == 0 and may_repack(pg, ctx)
    if (state & STATE) == CLEAN and not repack:
        return 0
    count = (cython.cast(uint32_t, 1) << block.shift) // MIN_PAGE
    i = (page - parts.first) % count
    first = page - i
    whole = block.first + (first - parts.first) // count
    for i in range(count):
        p = cython.address(pg.pages[first + i])
        word = state
        if first + i != page:
            word = load32(cython.address(p.state))
            if (
                ((word & STATE) != CLEAN and (word & STATE) != DIRTY)
                or (word & (REF | HOLES)) != 0
                or (word >> HIGH_SHIFT) != 0
                or ((word & STATE) == CLEAN and not repack)
                or not cas32(cython.address(p.state), word, BUSY)
            ):
                disown(pg, first, words, i, page)
                return 0
        words[i] = word
        if (word & STATE) == CLEAN:
            clean = True
    # Who frees the array may be looking whether none of its parts is there any more.
    if not cas32(cython.address(pg.pages[whole].state), SPLIT, BUSY):
        disown(pg, first, words, count, page)
        return 0
    if clean and region_allow(pg, page_address(pg, page) - (page - first) * MIN_PAGE, count * MIN_PAGE, False) != 0:
        store32(cython.address(pg.pages[whole].state), SPLIT)
        disown(pg, first, words, count, page)
        return 0
    for i in range(count):
        if (words[i] & STATE) == CLEAN:
            frontswap_invalidate_page(pg, first + i, words[i])
        store32(cython.address(pg.pages[first + i].state), NONE)
    pg.pages[whole].block = parts.whole
    add64(cython.address(pg.counters[C_COLLAPSES]), 1)
    return whole
