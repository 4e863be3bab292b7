"""First touches of who writes along: a huge page at a time.

Page by page each 4 KiB is allocated, charged and cleared by itself, and freed by itself when it leaves: a quarter of
what a fill costs, and more. A huge page is all that at once, comes with one UFFDIO_MOVE and leaves with one
(evict_huge()).

Who has touched both pages before a chunk of which nothing has been touched (or both behind it) walks along, and will
want the rest of it soon. What he does not touch leaves as a same-filled page, without bytes.
"""

import cython
from cython.cimports.frontswap.core.contexts import context_take
from cython.cimports.frontswap.core.evict import uncharge
from cython.cimports.frontswap.core.layout import (
    ADVICE_RANDOM,
    C_FIRST_TOUCHES,
    CHUNK_SHIFT,
    DIRTY,
    HOLES,
    NONE,
    PAGE_TABLE,
    STATE,
    block_p,
)
from cython.cimports.frontswap.core.reclaim import WITHIN, charge, queue_run
from cython.cimports.frontswap.core.split import wants_parts
from cython.cimports.frontswap.core.spot import spot_holds
from cython.cimports.frontswap.core.uapi import (
    EINVAL,
    add64,
    load32,
    loadi,
    store32,
    uint32_t,
    uint64_t,
)
from cython.cimports.frontswap.core.whole import drop, fresh_bring, fresh_take, huge_disown, huge_own


def touch_huge(pg, spot, ctx):
    """A write has found a page untouched: fill the 2 MiB that it lies in, if whoever writes walks along.

    False: they are as before, and the page is filled by itself. The caller owns no page; `*ctx` as for fault().
    """
    block: block_p = cython.address(pg.blocks[spot.number])
    at: uint64_t = spot.address & ~cython.cast(uint64_t, PAGE_TABLE - 1)
    n: uint32_t = cython.cast(uint32_t, 1) << (CHUNK_SHIFT - spot.shift)
    index: uint32_t = spot.index & ~(n - 1)  # an array begins with a chunk
    first: uint32_t = spot.page - spot.index + index
    i: uint32_t
    word: uint32_t = DIRTY
    error: cython.int
    if pg.huge_most == 0 or loadi(cython.address(pg.huge_touches)) <= 0 or spot.whole or n < 2:
        return False
    # The array may be another one by now, so that of its pages only some are in the table: all this is a guess.
    if first + n + 2 > pg.max_pages:
        return False
    if block.loose or not suits(pg, block, index + n) or not walks_along(pg, block, first, index, n):
        return False
    for i in range(n):
        if load32(cython.address(pg.pages[first + i].state)) != NONE:
            return False
    # Paid and there before a page is owned.
    if charge(pg, ctx, PAGE_TABLE, WITHIN) != 0:
        return False
    if ctx[0] == cython.NULL:
        ctx[0] = context_take(pg)
    if not fresh_take(ctx[0]):
        uncharge(pg, PAGE_TABLE)
        return False
    if not own(pg, spot, first, index, n):
        drop(ctx[0].fresh)
        uncharge(pg, PAGE_TABLE)
        return False
    error = fresh_bring(pg, ctx[0], at)
    if error == EINVAL:
        huge_disown(pg, first, n, 0, NONE, cython.NULL)
        uncharge(pg, PAGE_TABLE)
        return False
    if error:
        # It was split, and one of its small pages is busy. Others may have written to those that are in their places.
        drop(ctx[0].fresh)
        word |= HOLES
    add64(cython.address(pg.resident), PAGE_TABLE)
    add64(cython.address(pg.counters[C_FIRST_TOUCHES]), n)
    for i in range(n):
        pg.pages[first + i].where = 0
        pg.pages[first + i].block = spot.number
        store32(cython.address(pg.pages[first + i].state), word)
    queue_run(pg, first, n)
    return True


def suits(pg, block, end):
    """True if an array has `end` pages at least, and nothing else is known of it than which are there: no marks,
    nobody who records, and pages that leave whole. (Untouched pages that are not LOOSE are all paid for, too.)
    """
    return (
        end <= load32(cython.address(block.pages))
        and pg.trace == cython.NULL
        and not block.reserved
        and not block.marked
        and block.foreign == 0
        and block.advice != ADVICE_RANDOM
        and not wants_parts(pg, block)
    )


def walks_along(pg, block, first, index, n):
    """Have the two pages before a chunk been touched, or the two behind it?"""
    return (index >= 2 and is_touched(pg, first - 1) and is_touched(pg, first - 2)) or (
        index + n + 2 <= load32(cython.address(block.pages))
        and is_touched(pg, first + n)
        and is_touched(pg, first + n + 1)
    )


def is_touched(pg, page):
    """Has a page anything in it? (Nobody owns it: a hint.)"""
    return (load32(cython.address(pg.pages[page].state)) & STATE) != NONE


def own(pg, spot, first, index, n):
    """Own the untouched pages of a chunk; False: that cannot be, and none is.

    All first, and then the look whether the array lives: who frees it may have gone by some of them before they were
    owned.
    """
    if not huge_own(pg, first, n, 0, NONE, cython.NULL):
        return False
    if (
        spot_holds(pg, spot)
        and not pg.blocks[spot.number].loose
        and suits(pg, cython.address(pg.blocks[spot.number]), index + n)
    ):
        return True
    huge_disown(pg, first, n, 0, NONE, cython.NULL)
    return False
