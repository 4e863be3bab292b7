"""What comes back: what becomes of its record, and a huge page at a time for who walks along.

Page by page each 4 KiB is allocated, charged, listed and copied by the kernel, and freed again when it leaves: half of
what a scan costs. Who has walked along for a while gets all pages of a chunk, decompressed into one huge page, with
one UFFDIO_MOVE; they leave with another one (evict.py).

A page that keeps its record must be write-protected before anybody writes to it. UFFDIO_COPY does both at once,
UFFDIO_MOVE cannot: in the moment between it and the protection others may write, or have the kernel pin the page for a
device that writes later. So such a page is UNSURE. It is summed before it comes, and when it leaves, in a frame where
nobody writes to it: only if the sums are equal its record is good. (Summed as soon as it is protected, what a device
brings after that is lost.) What a device still uses, and what leaves alone, is DIRTY, and is stored.
"""

import cython
from cython.cimports.frontswap.core.balance import FROM_NOWHERE, balance_note, pool_has_room
from cython.cimports.frontswap.core.contexts import context_take
from cython.cimports.frontswap.core.evict import dirty_word, out_word, uncharge
from cython.cimports.frontswap.core.frontswap import frontswap_load, frontswap_overwritten
from cython.cimports.frontswap.core.layout import (
    C_LOADED_HUGE,
    C_READAHEADS,
    C_REFAULTS,
    C_WRITE_UPGRADES,
    CHUNK_SHIFT,
    CLEAN,
    DIRTY,
    HIGH_SHIFT,
    KIND,
    OUT,
    PAGE_TABLE,
    PRESSURE_NONE,
    RECORD,
    RECORD_LOG,
    REF,
    STATE,
    UNSURE,
    WHOLE_PAGES,
    block_p,
    is_plain,
    page_address,
    page_bytes,
    pressure_of,
)
from cython.cimports.frontswap.core.reclaim import BRIEF, WITHIN, charge, queue_run, wait_for_memory
from cython.cimports.frontswap.core.region import region_allow, region_keep
from cython.cimports.frontswap.core.segments import record_on_disk
from cython.cimports.frontswap.core.streams import is_walked, stream_note
from cython.cimports.frontswap.core.sums import page_sum
from cython.cimports.frontswap.core.swapfile import swap_tight
from cython.cimports.frontswap.core.touch import suits
from cython.cimports.frontswap.core.uapi import (
    EINVAL,
    add64,
    load32,
    load64,
    loadi,
    store32,
    uint8_t,
    uint32_t,
    uint64_t,
)
from cython.cimports.frontswap.core.uffd import die, uffd_finish
from cython.cimports.frontswap.core.whole import drop, fresh_bring, fresh_take, huge_disown, huge_is, huge_own

REWRITTEN = cython.declare(uint8_t, 8)  # huge pages that come as if they were written to, after one was

# --- one page ------------------------------------------------------------------------------------


def came_back(pg, ctx, size, state):
    """A page has been loaded, whose word was `state`: REF if it is back soon, or 0.

    Refault distance below what fits: it would have stayed with a little more room.
    """
    away: uint32_t = ((out_word(pg, 0) >> HIGH_SHIFT) - (state >> HIGH_SHIFT)) & 0xFFFF
    balance_note(pg, ctx, size, away * pg.epoch_bytes)
    return REF if away <= 16 else 0


def gives_up(pg, ctx, page, state, soon):
    """Does an owned page that has just been loaded give its record up, though nobody writes? `soon`: REF."""
    if (state & KIND) == RECORD_LOG:
        # What a filter has refused as inactive and now is active must be offered again when it leaves.
        if ctx.from_slot and soon and loadi(cython.address(pg.refaults_wanted)):
            return True
        # Slots are short, or it is in use and better off in the pool, where it has been before.
        if record_on_disk(pg, pg.pages[page].where) and (
            swap_tight(pg)
            or (soon and (comes_in(pg, page) or (not ctx.from_slot and pool_has_room(pg, page_bytes(pg, page)))))
        ):
            return True
    return not ctx.from_slot and loadi(cython.address(pg.exclusive)) != 0


def comes_in(pg, page):
    """Does an owned page that is back from the disk soon come into the pool, for the policy to say who leaves?

    As each does that missed in the simulator; but who goes by more than fits in turn, or at random, would have another
    one written for each that he reads. Not what did not get smaller; nor while memory is short, or the disk is spared
    or takes nothing: it would stay resident, and all that is resident could not leave.
    """
    return (
        pg.policy.of != cython.NULL
        and not is_plain(pg.pages[page].where, page_bytes(pg, page))
        and pressure_of(pg) == PRESSURE_NONE
        and loadi(cython.address(pg.write_spent)) == 0
        and loadi(cython.address(pg.disk_error)) == 0
    )


# --- a huge page ---------------------------------------------------------------------------------


def whole_pages(pg, block):
    """How many pages of an array are one huge page that may come back whole; 0: none does."""
    n: uint32_t = cython.cast(uint32_t, 1) << (CHUNK_SHIFT - block.shift)
    if n < 2 or n > WHOLE_PAGES or pg.huge_most == 0 or loadi(cython.address(pg.huge_touches)) <= 0:
        return 0
    return n if suits(pg, block, n) else 0


def bring_asked(pg, spot, write, ctx):
    """A page that is out has been asked for: bring in the 2 MiB that it lies in, if whoever asks walks along.

    False: all is as before, and the page comes by itself. The caller owns no page; `*ctx` as for fault().
    """
    block: block_p = cython.address(pg.blocks[spot.number])
    return (
        spot.whole == 0
        and whole_pages(pg, block) != 0
        and is_walked(block, spot.index)
        and bring_huge(pg, ctx, spot.page, write, False, spot.index, spot.at)
    )


def bring_huge(pg, ctx, page, write, ahead, index, at):
    """Bring in the 2 MiB that a page lies in, if all of it is out; False: it is as before.

    `ahead`: nobody has asked yet; else page `index` has been asked for, at byte `at` of its array. The caller owns no
    page. Errors are left to who brings the page in by itself.

    Where a huge page has been written to after it came, the next ones come as if they had been: so they need neither
    sums nor protection. Every ninth one does not, and shows whether it goes on.
    """
    words: uint32_t[64]
    block: block_p
    number: uint32_t
    n: uint32_t
    i: uint32_t
    first: uint32_t
    expected: uint8_t
    if page >= pg.max_pages:
        return False
    # A hint, until its pages are owned.
    number = load32(cython.address(pg.pages[page].block))
    if number >= pg.max_blocks:
        return False
    block = cython.address(pg.blocks[number])
    n = whole_pages(pg, block)
    first = load32(cython.address(block.first))  # once: as in spot_find()
    if n == 0 or page < first:
        return False
    first = page - ((page - first) & (n - 1))  # an array begins with a chunk
    if cython.cast(uint64_t, first) + n > pg.max_pages:
        return False
    for i in range(n):
        if (load32(cython.address(pg.pages[first + i].state)) & STATE) != OUT:
            return False
    if pg.file < 0 and load64(cython.address(pg.resident)) < pg.budget // 4:
        return False  # nearly all is records, and nothing can leave: 2 MiB at once may be what is missing then
    if ctx[0] == cython.NULL:
        ctx[0] = context_take(pg)
    if charge(pg, ctx, PAGE_TABLE, BRIEF if ahead else WITHIN) != 0:
        return False
    if not huge_own(pg, first, n, 0, OUT, words):
        uncharge(pg, PAGE_TABLE)
        return False
    # They are what they are from here on, and no array of theirs ends while they are owned.
    if not is_chunk(pg, number, first, n):
        huge_disown(pg, first, n, 0, OUT, words)
        uncharge(pg, PAGE_TABLE)
        return False
    expected = block.rewritten
    if expected and not write:
        block.rewritten = expected - 1
        write = True
    if not ahead:
        # Others bring in what is wanted next meanwhile.
        stream_note(pg, block, index, at, n, True)
    if not fresh_take(ctx[0]) or not arrive(pg, ctx[0], first, n, words, write):
        huge_disown(pg, first, n, 0, OUT, words)
        uncharge(pg, PAGE_TABLE)
        return False
    add64(cython.address(pg.counters[C_READAHEADS]), n if ahead else n - 1)
    return True


def is_chunk(pg, number, first, n):
    """Are these owned pages, which were OUT, one chunk of an array of which huge pages may come?"""
    block: block_p = cython.address(pg.blocks[number])
    i: uint32_t
    for i in range(n):
        if pg.pages[first + i].block != number:
            return False
    return (
        first >= block.first
        and (first - block.first) % n == 0
        and n == whole_pages(pg, block)
        and suits(pg, block, first - block.first + n)
    )


def arrive(pg, ctx, first, n, words, write):
    """Load the owned pages of a chunk into `ctx.fresh`, and move that to its place; False: they are out as before.

    `words`: what they were; what they are now is stored.
    """
    refs: uint64_t = 0  # a bit for each page
    gone: cython.bint = False
    size: uint32_t = page_bytes(pg, first)
    address: uint64_t = page_address(pg, first)
    i: uint32_t
    keeps: cython.bint
    error: cython.int = 0
    for i in range(n):
        ctx.into = ctx.fresh + i * size
        ctx.source = FROM_NOWHERE
        error = frontswap_load(pg, ctx, first + i, words[i], cython.cast(cython.int, n - 1 - i))
        if error:
            break
        if came_back(pg, ctx, size, words[i]):
            refs |= cython.cast(uint64_t, 1) << i
        gone = gives_up(pg, ctx, first + i, words[i], ((refs >> i) & 1) != 0) or gone
        if not write:
            page_sum(ctx.into, size, cython.address(pg.sums[2 * (first + i)]))
    ctx.into = ctx.plain
    if error:
        drop(ctx.fresh)
        return False
    keeps = not write and not gone
    error = fresh_bring(pg, ctx, address)
    if error == EINVAL:
        return False
    if error:
        complete(pg, ctx, address)
        keeps = False
    elif keeps and region_keep(pg, address, PAGE_TABLE) != 0:
        keeps = False
        error = region_allow(pg, address, PAGE_TABLE, True)
        if error:
            die("write protection", error)
    add64(cython.address(pg.resident), PAGE_TABLE)
    add64(cython.address(pg.counters[C_REFAULTS]), n)
    add64(cython.address(pg.counters[C_LOADED_HUGE]), 1)
    for i in range(n):
        if keeps:
            words[i] = CLEAN | UNSURE | (words[i] & RECORD)
        else:
            frontswap_overwritten(pg, first + i, words[i])
            words[i] = DIRTY
        if (refs >> i) & 1:
            words[i] |= REF
        store32(cython.address(pg.pages[first + i].state), words[i])
    queue_run(pg, first, n)
    return True


def complete(pg, ctx, address):
    """It was split, one of its small pages is busy, and the others are in their places, where others write to them: the
    rest of `ctx.fresh` follows.
    """
    error: cython.int
    turn: cython.int = 0
    while True:
        error = uffd_finish(pg.fd, address, cython.cast(uint64_t, ctx.fresh), PAGE_TABLE)
        if error == 0:
            break
        wait_for_memory(pg, ctx, PAGE_TABLE, error, turn)
        turn += 1
    drop(ctx.fresh)


def write_huge(pg, page, state):
    """An owned CLEAN page, whose word was `state`, is written to: if it is of a huge page beside which others have been
    written to, all of that is DIRTY now, and True. Else it is as before.

    To un-protect a part of a huge page has it split, and that takes longer than to pack some pages anew that nobody
    writes to; but they must not be many.
    """
    words: uint32_t[64]
    block: block_p = cython.address(pg.blocks[pg.pages[page].block])
    n: uint32_t
    i: uint32_t
    first: uint32_t
    address: uint64_t
    if not huge_is(pg, (page_address(pg, page) - pg.base) >> CHUNK_SHIFT):
        return False
    n = whole_pages(pg, block)
    if n == 0:
        return False
    first = page - ((page - block.first) & (n - 1))
    if not suits(pg, block, first - block.first + n) or not (
        (first > block.first and is_dirty(pg, first - 1))
        or (first - block.first + n < load32(cython.address(block.pages)) and is_dirty(pg, first + n))
    ):
        return False
    if not huge_own(pg, first, n, page, CLEAN, words):
        return False
    words[page - first] = state
    address = page_address(pg, first)
    if region_allow(pg, address, PAGE_TABLE, False) != 0:
        huge_disown(pg, first, n, page, CLEAN, words)
        return False
    add64(cython.address(pg.counters[C_WRITE_UPGRADES]), n)
    block.rewritten = REWRITTEN
    for i in range(n):
        frontswap_overwritten(pg, first + i, words[i])
        store32(cython.address(pg.pages[first + i].state), dirty_word(words[i]))
    return True


def is_dirty(pg, page):
    """Has a page been written to? (Nobody owns it: a hint.)"""
    return (load32(cython.address(pg.pages[page].state)) & STATE) == DIRTY
