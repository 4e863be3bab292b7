"""The arena: one large reservation of addresses, handed out to arrays, and the space that backs them.

Allocation and freeing only; no fault comes here. Called with or without the GIL, under arena_lock and
with signals blocked (a handler of the program that faults must not find our lock taken by its thread).
"""

import cython
from cython.cimports.frontswap.core.choice import codec_choice_init
from cython.cimports.frontswap.core.contexts import contexts_for
from cython.cimports.frontswap.core.extents import NOWHERE, extent_give, extent_take
from cython.cimports.frontswap.core.gate import gate_enter, gate_leave
from cython.cimports.frontswap.core.layout import (
    ADVICE_NORMAL,
    CHUNK_SHIFT,
    MIN_PAGE,
    MOST_MAP_PAGE,
    MOST_PARTS,
    SIDE_PROTECTION,
    SIDE_THREAD,
    SPARE_ARRAY,
    SPARE_BYTES,
    SPARES,
    block_p,
)
from cython.cimports.frontswap.core.loose import crossing, loose_counted, loose_resume
from cython.cimports.frontswap.core.region import region_close
from cython.cimports.frontswap.core.registration import block_huge, threads_resume
from cython.cimports.frontswap.core.swapfile import swap_reserve
from cython.cimports.frontswap.core.uapi import (
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_NOHUGEPAGE,
    MAP_ANONYMOUS,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    add64,
    block_signals,
    cas32,
    errno,
    int64_t,
    load32,
    load64,
    loadi,
    lock,
    madvise,
    mmap,
    mprotect,
    restore_signals,
    sigset_t,
    store32,
    uint8_t,
    uint32_t,
    uint64_t,
    unlock,
)
from cython.cimports.frontswap.core.uffd import die
from cython.cimports.frontswap.core.watch import watch_look
from cython.cimports.frontswap.core.whole import huge_take
from cython.cimports.frontswap.core.zap import pager_zap
from cython.cimports.libc.string import memmove, memset

PART_SHIFT = cython.declare(uint8_t, 12)  # of MIN_PAGE


def map_memory(bytes):
    """Private memory that is backed when touched, or NULL. Never in a core dump, never in a forked child."""
    at: cython.p_void = mmap(
        cython.NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
    )
    if cython.cast(int64_t, at) == -1:
        return cython.NULL
    madvise(at, bytes, MADV_DONTDUMP)
    madvise(at, bytes, MADV_DONTFORK)
    madvise(at, bytes, MADV_NOHUGEPAGE)
    return at


# --- arrays ---------------------------------------------------------------------------------------


def page_by_size(pg, size):
    """Page size for an array of `size` bytes: large enough to be cheap, small beside array and limit."""
    page: uint32_t = 65536
    while page > 4096 and (size < 16 * cython.cast(uint64_t, page) or page > pg.limit // 512):
        page //= 2
    return page


def counter(pg, how):
    """Where the bytes of an array are counted."""
    return cython.address(pg.loose) if how & LOOSE else cython.address(pg.allocated)


def backing(pg, allocated, budget):
    """0 if so many bytes can be backed beside so much RAM, under the lock; CROSSING, or an errno of the swap file."""
    error: cython.int
    if loadi(cython.address(pg.registered)) == 0 and allocated + loose_counted(pg) + pg.spare_bytes <= budget:
        return 0
    error = swap_reserve(pg, allocated, budget)
    return CROSSING if error == 0 and loadi(cython.address(pg.registered)) == 0 else error


def may_hold(pg, bytes, how, error):
    """True if `bytes` more can be backed, under the lock: they are counted. Else `*error` says why not."""
    counted: cython.pointer(int64_t) = counter(pg, how)
    allocated: int64_t
    add64(counted, bytes)
    allocated = load64(cython.address(pg.allocated))
    if pg.file < 0 and allocated > pg.allocate_most:
        error[0] = NO_ALLOCATION
    else:
        error[0] = backing(pg, allocated, pg.budget)
    if error[0]:
        add64(counted, -bytes)
    return error[0] == 0


def place(pg, bytes, page, how, error):
    """A block with addresses and ids for an array, under the lock; 0 and `*error` when there is none.

    GROWING: with room for twice as many pages, if there is.
    """
    shift: cython.int = 0
    pages: uint64_t
    room: uint64_t
    chunks: uint64_t
    at: uint64_t
    first: uint64_t
    number: uint32_t
    i: uint64_t
    block: block_p
    if bytes > pg.size:
        error[0] = NO_ADDRESSES
        return 0
    if page > pg.page_most:
        page = pg.page_most  # the limit is lower than when it was chosen
    if how & MAPPED and page > MOST_MAP_PAGE:
        page = MOST_MAP_PAGE
    while (cython.cast(uint32_t, 1) << shift) < page:
        shift += 1
    pages = (bytes + page - 1) >> shift
    room = 2 * pages if how & GROWING else pages
    # An array never ends where the next one starts: malloc's own free(), called by who had its address before there was
    # a heap here (core/heap.py), takes the word before for the size of the memory, and must find none.
    chunks = ((room << shift) + 8 + (1 << CHUNK_SHIFT) - 1) >> CHUNK_SHIFT
    contexts_for(pg, page)
    number = block_take(pg)
    if number == 0:
        error[0] = NO_ADDRESSES
        return 0
    at = extent_take(cython.address(pg.space), chunks, 1 if shift <= CHUNK_SHIFT else 1 << (shift - CHUNK_SHIFT))
    if at == NOWHERE:
        block_give(pg, number)
        error[0] = NO_ADDRESSES
        return 0
    first = extent_take(cython.address(pg.ids), room, 1)
    if first == NOWHERE:
        error[0] = NO_ADDRESSES
    if first == NOWHERE or not (how & RESERVED or may_hold(pg, cython.cast(int64_t, pages << shift), how, error)):
        extent_give(cython.address(pg.space), at, chunks)
        if first != NOWHERE:
            extent_give(cython.address(pg.ids), first, room)
        block_give(pg, number)
        return 0
    block = cython.address(pg.blocks[number])
    block.base = pg.base + (at << CHUNK_SHIFT)
    block.bytes = bytes
    block.first = cython.cast(uint32_t, first)
    block.pages = cython.cast(uint32_t, pages)
    block.room = cython.cast(uint32_t, room)
    block.chunk = cython.cast(uint32_t, at)
    block.chunks = cython.cast(uint32_t, chunks)
    block.shift = cython.cast(uint8_t, shift)
    block.mapped = (how & MAPPED) != 0
    block.growing = (how & GROWING) != 0
    block.loose = (how & LOOSE) != 0
    block.reserved = block.marked = (how & RESERVED) != 0
    block.follows = (how & FOLLOWS) != 0
    parts_place(pg, number)
    if loadi(cython.address(pg.registered)) == 0:
        block_huge(pg, block, True)
    elif pg.side == SIDE_THREAD:
        # A poison marker of an earlier array would meet the first fault of this one.
        madvise(cython.cast(cython.p_void, block.base), room << shift, MADV_DONTNEED)
    for i in range(chunks):
        store32(cython.address(pg.chunks[at + i]), number)
    return number


def block_take(pg):
    """The number of a block that nobody has, all zeros, under the lock; 0: there is none."""
    number: uint32_t = pg.free_block
    if number:
        pg.free_block = pg.blocks[number].first
    elif pg.used_blocks + 1 < pg.max_blocks:
        pg.used_blocks += 1
        number = pg.used_blocks
    else:
        return 0
    memset(cython.address(pg.blocks[number]), 0, cython.sizeof(pg.blocks[number]))
    return number


def block_give(pg, number):
    """End of block_take()."""
    pg.blocks[number].first = pg.free_block
    pg.free_block = number


def parts_place(pg, number):
    """Ids for the parts of an array's pages, under the lock: a block of 4 KiB pages at its addresses. Where there is no
    room for them its pages are never split, nor where that would cost what is scarce: mappings, or RAM that has no disk
    behind it (small records take more).
    """
    block: block_p = cython.address(pg.blocks[number])
    parts: block_p
    room: uint64_t = (cython.cast(uint64_t, block.room) << block.shift) // MIN_PAGE
    first: uint64_t
    other: uint32_t
    count: uint32_t = (cython.cast(uint32_t, 1) << block.shift) // MIN_PAGE
    if not block.follows or count == 1 or count > MOST_PARTS or pg.side == SIDE_PROTECTION or pg.file < 0:
        return
    other = block_take(pg)
    if other == 0:
        return
    first = extent_take(cython.address(pg.ids), room, 1)
    if first == NOWHERE:
        block_give(pg, other)
        return
    parts = cython.address(pg.blocks[other])
    parts.base = block.base
    parts.first = cython.cast(uint32_t, first)
    parts.pages = parts.room = cython.cast(uint32_t, room)
    parts.shift = PART_SHIFT
    parts.loose = block.loose
    parts.whole = number
    block.parts = other


def parts_end(pg, block):
    """End of parts_place(). None of them has a state any more."""
    number: uint32_t = block.parts
    if number:
        block.parts = 0
        pg.blocks[number].whole = 0
        extent_give(cython.address(pg.ids), pg.blocks[number].first, pg.blocks[number].room)
        block_give(pg, number)


def array_begin(pg, number, bytes, typesize, kind, how):
    """A block's life as an array begins, under the lock; its address."""
    block: block_p = cython.address(pg.blocks[number])
    parts: block_p = cython.address(pg.blocks[block.parts])
    pg.serial += 1
    block.bytes = bytes
    block.advice = ADVICE_NORMAL
    block.spare = (how & SPARE) != 0
    codec_choice_init(cython.address(block.choice), typesize, kind if kind >= 0 else pg.codec_kind)
    if block.parts:
        parts.bytes = bytes
        parts.advice = ADVICE_NORMAL
        parts.serial = pg.serial
        parts.choice = block.choice
    store32(cython.address(block.serial), pg.serial)
    store32(cython.address(block.live), 1)
    return block.base


def drop_words(at, n):
    """Clear marks. Those of a large mapping cost no RAM any more then."""
    start: uint64_t = (cython.cast(uint64_t, at) + 4095) & ~cython.cast(uint64_t, 4095)
    end: uint64_t = cython.cast(uint64_t, at + n) & ~cython.cast(uint64_t, 4095)
    if start < end and madvise(cython.cast(cython.p_void, start), end - start, MADV_DONTNEED) == 0:
        memset(at, 0, start - cython.cast(uint64_t, at))
        memset(cython.cast(cython.p_void, end), 0, cython.cast(uint64_t, at + n) - end)
    else:
        memset(at, 0, n * 4)


def marks_clear(pg, block):
    """Forget what has been unmapped and protected of an array, under the lock, before its addresses go to another."""
    first: uint64_t = (block.base - pg.base) // 4096 // 32
    words: uint64_t = cython.cast(uint64_t, block.chunks) * ((1 << CHUNK_SHIFT) // 4096 // 32)
    error: cython.int
    if block.reserved:
        drop_words(pg.opened + first, words)
    drop_words(pg.gone + first, words)
    drop_words(pg.fixed + first, words)
    # Its protections are the kernel's: see map_protect(). None is needed where all of it is closed by now.
    if pg.side == SIDE_PROTECTION and loadi(cython.address(pg.registered)):
        error = region_close(pg, block.base, words * 32 * 4096, True)
        if error:
            die("mprotect", error)
    elif mprotect(cython.cast(cython.p_void, block.base), words * 32 * 4096, PROT_READ | PROT_WRITE) != 0:
        die("mprotect", errno)


def array_advise(pg, number, advice):
    """How an array is read, as madvise(2) means it. Of one that has just been freed it says nothing."""
    block: block_p = cython.address(pg.blocks[number])
    block.advice = advice
    if block.parts:
        pg.blocks[block.parts].advice = advice


def array_end(pg, number, counted):
    """The end of a block whose array is freed. Inside the gate, without the lock.

    `counted`: where its bytes are counted, `allocated` or `spare_bytes`: until its frames have gone.
    """
    block: block_p = cython.address(pg.blocks[number])
    i: uint64_t
    if block.reserved:  # piece by piece, by now: core/reserved.py
        add64(cython.address(pg.reserved), -cython.cast(int64_t, block.bytes))
    else:
        pager_zap(pg, block, block.first, block.pages, True)
    if loadi(cython.address(pg.registered)) == 0:
        block_huge(pg, block, False)
    lock(cython.address(pg.arena_lock))
    if block.marked:
        marks_clear(pg, block)
    for i in range(block.chunk, block.chunk + block.chunks):
        store32(cython.address(pg.chunks[i]), 0)
        huge_take(pg, i)
    add64(counted, -(cython.cast(int64_t, block.pages - block.dropped) << block.shift))
    extent_give(cython.address(pg.space), block.chunk, block.chunks)
    extent_give(cython.address(pg.ids), block.first, block.room)
    parts_end(pg, block)
    block_give(pg, number)
    unlock(cython.address(pg.arena_lock))


def arena_allocate(pg, bytes, page, typesize, kind, how, error):
    """Addresses for `bytes` (> 0) in pages of `page` (0: by its size, and by its faults); 0 and `*error` when refused.
    They read as zeros, but for SPARE without ZEROS.

    The first that does not fit in the limit with the others has the arena registered.
    """
    signals: sigset_t
    address: uint64_t = 0
    number: uint32_t
    failed: cython.int = 0
    again: cython.bint
    looked: cython.int = 0
    if page == 0:
        page = page_by_size(pg, bytes)
        how |= FOLLOWS
    page = max(page, pg.least_page)
    if how & SPARE:
        address = spare_begin(pg, bytes, page, typesize, kind, how)
        if address:
            return address
    block_signals(cython.address(signals))
    while True:
        gate_enter(pg)
        lock(cython.address(pg.arena_lock))
        error[0] = 0
        number = place(pg, bytes, page, how, error)
        if number:
            address = array_begin(pg, number, bytes, typesize, kind, how)
        unlock(cython.address(pg.arena_lock))
        again = number == 0 and pg.spare_count > 0
        if again or (pg.spare_count > 0 and loadi(cython.address(pg.registered))):
            spares_end(pg)
        gate_leave(pg)
        if again:
            continue
        if error[0] != CROSSING:
            break
        # From outside of the gate, which it closes; somebody may have been faster, or have freed meanwhile.
        failed = crossing(pg, cython.address(looked))
        if failed:
            error[0] = NO_REGISTRATION | failed
            break
    threads_resume(pg)  # a forked child, of a C library say; without them it works, too
    restore_signals(cython.address(signals))
    loose_resume(pg)
    watch_look(pg)
    return address


def arena_resize(pg, address, bytes):
    """Let an array end earlier, or later if it was given room for that; False: it is as it was.

    Like realloc(), not for an array that somebody else uses meanwhile.
    """
    signals: sigset_t
    number: uint32_t = arena_find(pg, address)
    block: block_p = cython.address(pg.blocks[number])
    pages: uint64_t
    old: uint32_t
    how: cython.int
    grown: int64_t
    looked: cython.int = 0
    error: cython.int = CROSSING
    if number == 0 or block.base != address or load32(cython.address(block.live)) != 1:
        return False
    pages = (bytes + (cython.cast(uint64_t, 1) << block.shift) - 1) >> block.shift
    if pages > block.room:
        return False
    block_signals(cython.address(signals))
    while error == CROSSING:
        gate_enter(pg)
        old = block.pages
        if pages < old:
            if loadi(cython.address(pg.registered)) == 0:
                block_huge(pg, block, False)
            # First what faults go by, then the pages: see spot_holds().
            store32(cython.address(block.pages), cython.cast(uint32_t, pages))
            pager_zap(pg, block, block.first + cython.cast(uint32_t, pages), old - cython.cast(uint32_t, pages), True)
        lock(cython.address(pg.arena_lock))
        error = 0
        how = LOOSE if block.loose else 0
        grown = cython.cast(int64_t, pages << block.shift) - (cython.cast(int64_t, old) << block.shift)
        if grown <= 0:
            add64(counter(pg, how), grown)
        if grown <= 0 or may_hold(pg, grown, how, cython.address(error)):
            block.bytes = bytes
            if block.parts:
                pg.blocks[block.parts].bytes = bytes
            store32(cython.address(block.pages), cython.cast(uint32_t, pages))
            if loadi(cython.address(pg.registered)) == 0:
                block_huge(pg, block, True)
        unlock(cython.address(pg.arena_lock))
        gate_leave(pg)
        if error == CROSSING and crossing(pg, cython.address(looked)) != 0:
            break
    restore_signals(cython.address(signals))
    loose_resume(pg)
    watch_look(pg)
    return error == 0


def arena_find(pg, address):
    """The block that an address lies in, or 0."""
    number: uint32_t
    if address < pg.base or address >= pg.base + pg.size:
        return 0
    number = load32(cython.address(pg.chunks[(address - pg.base) >> CHUNK_SHIFT]))
    if number and address - pg.blocks[number].base >= cython.cast(uint64_t, pg.blocks[number].pages) << (
        pg.blocks[number].shift
    ):
        return 0
    return number


def arena_free(pg, address):
    """Give an array's pages, addresses and ids back; False if the address is not the start of one."""
    signals: sigset_t
    ends: uint32_t[SPARES]
    n: cython.int
    i: cython.int
    number: uint32_t = arena_find(pg, address)
    block: block_p = cython.address(pg.blocks[number])
    counted: cython.pointer(int64_t) = cython.address(pg.spare_bytes)
    if number == 0 or block.base != address or not cas32(cython.address(block.live), 1, 0):
        return False
    n = spare_keep(pg, number, ends)
    if n == 0:
        return True
    if n < 0:
        ends[0] = number
        n = 1
        counted = counter(pg, LOOSE if block.loose else 0)
    block_signals(cython.address(signals))
    gate_enter(pg)
    for i in range(n):
        array_end(pg, ends[i], counted)
    gate_leave(pg)
    restore_signals(cython.address(signals))
    return True


# --- spares --------------------------------------------------------------------------------------

# The temporaries of an expression come and go at one size, and malloc() gives the next one the memory of the last, with
# its frames. So do we, below the limit. A spare is an array whose end is put off: it has its block, its addresses and
# its ids, what is there of it is found by a registration as that of all others is, and all together fit in the limit.
#
# Signals stay as they are, for the four calls would take as long as all the rest. Nothing is registered while one who
# has found it so is inside of the gate, so a handler that interrupts him touches ordinary memory; if it forks or
# allocates, it waits for ever, as in malloc(). Once it is registered nobody enters like that: a handler that faults
# would wait at a gate that a fork has closed, and the fork for him whom it has interrupted.


def spare_keep(pg, number, ends):
    """Put off the end of a freed array; how many of the oldest spares must end for it (`ends`), -1: it must itself."""
    block: block_p = cython.address(pg.blocks[number])
    size: int64_t = cython.cast(int64_t, block.pages) << block.shift
    most: int64_t = min(cython.cast(int64_t, SPARE_BYTES), pg.budget // 8)
    n: cython.int = -1
    if not block.spare or size > SPARE_ARRAY or size > most or loadi(cython.address(pg.registered)):
        return -1
    gate_enter(pg)
    if loadi(cython.address(pg.registered)) == 0:
        lock(cython.address(pg.arena_lock))
        n = 0
        # Those that are about to end are counted until they have.
        while pg.spare_count == SPARES or (pg.spare_count and load64(cython.address(pg.spare_bytes)) + size > most):
            ends[n] = pg.spares[0]
            most += cython.cast(int64_t, pg.blocks[ends[n]].pages) << pg.blocks[ends[n]].shift
            n += 1
            spare_remove(pg, 0)
        pg.spares[pg.spare_count] = number
        pg.spare_count += 1
        add64(cython.address(pg.spare_bytes), size)
        add64(cython.address(pg.allocated), -size)
        unlock(cython.address(pg.arena_lock))
    gate_leave(pg)
    return n


def spare_remove(pg, i):
    """Close a place among the spares. Under the lock."""
    pg.spare_count -= 1
    memmove(
        cython.address(pg.spares[i]),
        cython.address(pg.spares[i + 1]),
        cython.cast(cython.size_t, pg.spare_count - i) * cython.sizeof(uint32_t),
    )


def spare_begin(pg, bytes, page, typesize, kind, how):
    """An array of the youngest spare that is just right for it, or 0."""
    number: uint32_t = 0
    address: uint64_t = 0
    block: block_p
    if bytes > SPARE_ARRAY or loadi(cython.address(pg.registered)):
        return 0
    gate_enter(pg)
    if loadi(cython.address(pg.registered)) == 0:
        lock(cython.address(pg.arena_lock))
        number = spare_take(pg, bytes, page, how)
        if number:
            # Among the spares it was counted, too: what fitted fits.
            block = cython.address(pg.blocks[number])
            add64(cython.address(pg.allocated), cython.cast(int64_t, block.pages) << block.shift)
            address = array_begin(pg, number, bytes, typesize, kind, how)
        unlock(cython.address(pg.arena_lock))
    gate_leave(pg)
    if address and how & ZEROS:
        # As its owner does, from outside of the gate: it may be registered by now, and these are faults then.
        memset(cython.cast(cython.p_void, address), 0, bytes)
    return address


def spare_take(pg, bytes, page, how):
    """The youngest spare that is just right for an array, or 0. Under the lock.

    What will grow may have up to twice as much at once: it is there, and counted.
    """
    pages: uint64_t = (bytes + page - 1) // page
    most: uint64_t = 2 * pages if how & GROWING else pages
    i: cython.int = pg.spare_count
    number: uint32_t
    block: block_p
    while i > 0:
        i -= 1
        number = pg.spares[i]
        block = cython.address(pg.blocks[number])
        if (
            cython.cast(uint32_t, 1) << block.shift == page
            and pages <= block.pages <= most
            and (block.growing != 0) == ((how & GROWING) != 0)
            and (block.follows != 0) == ((how & FOLLOWS) != 0)
        ):
            spare_remove(pg, i)
            add64(cython.address(pg.spare_bytes), -(cython.cast(int64_t, block.pages) << block.shift))
            return number
    return 0


def spares_end(pg):
    """The end of all spares. Inside the gate, without the lock."""
    number: uint32_t
    while True:
        number = 0
        lock(cython.address(pg.arena_lock))
        if pg.spare_count:
            pg.spare_count -= 1
            number = pg.spares[pg.spare_count]
        unlock(cython.address(pg.arena_lock))
        if number == 0:
            return
        array_end(pg, number, cython.address(pg.spare_bytes))


def arena_trim(pg):
    """Give back what is kept for the next arrays. Signals are blocked."""
    gate_enter(pg)
    spares_end(pg)
    gate_leave(pg)
