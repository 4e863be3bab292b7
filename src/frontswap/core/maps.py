"""Maps: what a program maps by itself comes from the arena too: private anonymous memory, of more than 1 MiB.

Allocators do that (jemalloc in polars and duckdb, mimalloc in pyarrow), and they unmap, trim, empty and protect parts
of what they have mapped. A mapping is an array of the heap that may go piece by piece:

munmap     4 KiB pieces are marked in `gone`. A page all of whose pieces are gone is dropped; the array ends with its
           last page. Its addresses are nobody else's until then: a second munmap() of the same piece does no harm.
madvise    MADV_DONTNEED and MADV_FREE drop pages.
mprotect   To anything but read and write, as of code that has been compiled or a guard: the pages become resident, are
           pinned and left to the kernel, until all pieces of them may be written again (a bit of `fixed` for each).
mmap       MAP_FIXED onto it empties it; not onto what has been unmapped of it, which does not come back.
mremap     Smaller: a munmap(). Larger: where it is if there is room, or a copy (core/remap.py).

Mapped with MAP_NORESERVE, as by allocators that reserve addresses, pages count, and have the swap file grow, when they
are touched (pager.backed()); all else counts when it is mapped, as for malloc(). Hints of an address are not followed.
"""

import cython
from cython.cimports.frontswap.core.arena import (
    LOOSE,
    MAPPED,
    NO_ADDRESSES,
    arena_allocate,
    arena_find,
    arena_free,
    counter,
)
from cython.cimports.frontswap.core.gate import gate_enter, gate_leave
from cython.cimports.frontswap.core.large import heap, heap_base, heap_end, is_large
from cython.cimports.frontswap.core.layout import (
    BUSY,
    CHUNK_SHIFT,
    CLEAN,
    KIND,
    MOST_MAP_PAGE,
    NONE,
    OUT,
    RECORD_SAME,
    SIDE_PROTECTION,
    SPLIT,
    STATE,
    UNSURE,
    block_p,
    first_part,
    page_p,
    parts_of,
)
from cython.cimports.frontswap.core.loose import loose_resume
from cython.cimports.frontswap.core.pieces import PIECE, protect_lock
from cython.cimports.frontswap.core.pins import pager_pin, pager_unpin
from cython.cimports.frontswap.core.registration import arena_register
from cython.cimports.frontswap.core.reserved import (
    UNREGISTERED,
    reserve_drop,
    reserve_empty,
    reserve_map,
    reserve_protect,
)
from cython.cimports.frontswap.core.uapi import (
    EINVAL,
    ENOMEM,
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    add64,
    and32,
    block_signals,
    cas32,
    errno,
    int64_t,
    load32,
    loadi,
    lock,
    madvise,
    mprotect,
    or32,
    restore_signals,
    sigset_t,
    store32,
    uint32_t,
    uint64_t,
    unlock,
)
from cython.cimports.frontswap.core.uffd import die
from cython.cimports.frontswap.core.watch import watch_look
from cython.cimports.frontswap.core.zap import pager_zap, zap_unregistered
from cython.cimports.libc.string import memset

AUTO = cython.declare(cython.int, -1)
NOT_RESERVED = cython.declare(cython.int, -2)
ALL = cython.declare(uint64_t, 0xFFFFFFFFFFFFFFFF)  # pieces of a page


def whole(n):
    """A length in whole pieces."""
    return (n + PIECE - 1) & ~cython.cast(uint64_t, PIECE - 1)


def is_plain(protection, flags):
    """True for private anonymous memory that may be read and written, and nothing else."""
    return (
        protection == (PROT_READ | PROT_WRITE)
        and (flags & ~cython.cast(cython.int, MAP_NORESERVE | MAP_POPULATE)) == MAP_PRIVATE | MAP_ANONYMOUS
    )


def map_wanted(n, protection, flags):
    """True if a mapping is one of ours."""
    return is_plain(protection, flags) and n > MAP_LEAST and is_large(n)


def map_take(n, flags, elsewhere):
    """mmap(2); NULL when it is refused. `*elsewhere`: the arena has no addresses left, or none with pages small enough,
    the kernel may have.
    """
    error: cython.int = 0
    how: cython.int = MAPPED | (LOOSE if flags & MAP_NORESERVE else 0)
    size: uint64_t = whole(n)
    address: uint64_t
    if heap.least_page > MOST_MAP_PAGE:
        elsewhere[0] = True
        return cython.NULL
    address = arena_allocate(heap, size, heap.page, 0, AUTO, how, cython.address(error))
    elsewhere[0] = address == 0 and error == NO_ADDRESSES
    return cython.cast(cython.p_void, address)


def next_map(at, end, low, high):
    """The next array of the heap that [*at, end) touches, and in which part, or 0; `*at` is beyond it then."""
    number: uint32_t = 0
    block: block_p
    while at[0] < end and at[0] < heap_end:
        number = 0
        if at[0] >= heap_base:
            number = load32(cython.address(heap.chunks[(at[0] - heap_base) >> CHUNK_SHIFT]))
        if number == 0:
            at[0] = ((at[0] >> CHUNK_SHIFT) + 1) << CHUNK_SHIFT
            continue
        block = cython.address(heap.blocks[number])
        low[0] = max(at[0], block.base)
        high[0] = min(end, block.base + whole(block.bytes))
        at[0] = block.base + (cython.cast(uint64_t, block.chunks) << CHUNK_SHIFT)
        if low[0] < high[0]:
            return number
    return 0


def is_mapped(address, n):
    """True if a range touches mappings of ours, and nothing else of an arena."""
    at: uint64_t = address
    low: uint64_t = 0
    high: uint64_t = 0
    number: uint32_t
    found: cython.bint = False
    if address < heap_base or address + n > heap_end:
        return False
    while True:
        number = next_map(cython.address(at), address + n, cython.address(low), cython.address(high))
        if number == 0:
            return found
        if not heap.blocks[number].mapped:
            return False
        found = True


# --- munmap ----------------------------------------------------------------------------------------


def piece_bits(block, page, low, high, first):
    """The bits of `gone` for the pieces of a page in [low, high), and the number of its first."""
    start: uint64_t = block.base + (page << block.shift)
    count: uint64_t = (min(high, start + (cython.cast(uint64_t, 1) << block.shift)) - max(low, start)) // PIECE
    first[0] = (start - heap_base) // PIECE
    # All 32 of them may be meant, and 1 << 32 is more than the word holds.
    bits: uint64_t = ((cython.cast(uint64_t, 1) << count) - 1) << ((max(low, start) - heap_base) // PIECE % 32)
    return cython.cast(uint32_t, bits)


def drop_part(number, low, high):
    """munmap(2) of a part of an array; True: that was the last of it. Inside the gate, with signals blocked.

    Who has completed a page drops it. The array lives until nobody does that any more: its pages are another's then.
    """
    block: block_p = cython.address(heap.blocks[number])
    end: uint64_t = block.base + whole(block.bytes)
    page: uint64_t = (low - block.base) >> block.shift
    last: uint64_t = (high - 1 - block.base) >> block.shift
    start: uint64_t = 0
    stop: uint64_t = 0
    dropped: uint32_t = 0
    first: uint64_t = 0
    wanted: uint32_t
    before: uint32_t
    done: cython.bint
    lock(cython.address(heap.arena_lock))
    block.marked = 1
    while page <= last:
        wanted = piece_bits(block, page, 0, end, cython.address(first))
        before = heap.gone[first // 32] & wanted
        heap.gone[first // 32] |= piece_bits(block, page, low, high, cython.address(first))
        if before != wanted and (heap.gone[first // 32] & wanted) == wanted:
            if dropped == 0:
                start = page
            stop = page + 1
            dropped += 1
        page += 1
    block.dropping += 1
    unlock(cython.address(heap.arena_lock))
    # Those between that were gone before hold nothing.
    if dropped:
        pager_zap(
            heap,
            block,
            block.first + cython.cast(uint32_t, start),
            cython.cast(uint32_t, stop - start),
            True,
        )
    lock(cython.address(heap.arena_lock))
    add64(counter(heap, LOOSE if block.loose else 0), -(cython.cast(int64_t, dropped) << block.shift))
    block.dropped += dropped
    block.dropping -= 1
    done = block.dropped == block.pages and block.dropping == 0
    unlock(cython.address(heap.arena_lock))
    return done


def reserved_drop(low, high):
    """munmap(2) of a part of a reserved mapping: 0 or an errno."""
    error: cython.int = 0
    number: uint32_t
    signals: sigset_t
    block_signals(cython.address(signals))
    lock(cython.address(protect_lock))
    number = arena_find(heap, low)
    if number and heap.blocks[number].reserved:  # another thread may have unmapped all of it
        error = reserve_drop(cython.address(heap.blocks[number]), low, high)
    unlock(cython.address(protect_lock))
    restore_signals(cython.address(signals))
    return error


def map_drop(address, n):
    """munmap(2) of mappings: 0 or an errno."""
    at: uint64_t = address
    low: uint64_t = 0
    high: uint64_t = 0
    number: uint32_t
    base: uint64_t
    all: cython.bint
    error: cython.int
    signals: sigset_t
    if n == 0 or address % PIECE != 0 or not is_mapped(address, whole(n)):
        return EINVAL
    while True:
        number = next_map(cython.address(at), address + whole(n), cython.address(low), cython.address(high))
        if number == 0:
            return 0
        if heap.blocks[number].reserved:
            error = reserved_drop(low, high)
            if error:
                return error
            continue
        base = heap.blocks[number].base
        all = low == base and high == base + whole(heap.blocks[number].bytes) and heap.blocks[number].dropping == 0
        if not all:
            block_signals(cython.address(signals))
            gate_enter(heap)
            all = drop_part(number, low, high)
            gate_leave(heap)
            restore_signals(cython.address(signals))
        if all:
            arena_free(heap, base)


# --- madvise, and mmap onto a mapping ------------------------------------------------------------------


def zap_pages(pg, block, first, end, zeros):
    """Drop whole pages of an array that lives. Those that the program has protected, too: they are fixed no more.

    Such a page is absent then, and not ours to fill but by a read that the kernel allows: it comes in clean. (Not on
    the side of protection, which has but one for us and the program.)
    """
    page: uint64_t = first
    run: uint64_t
    pinned: uint32_t
    fixed: cython.bint
    marked: cython.bint
    signals: sigset_t
    while page < end:
        block_signals(cython.address(signals))
        # What is fixed stays so until its bytes are dropped: another thread may be about to let it be written again.
        marked = block.marked
        if marked:
            lock(cython.address(protect_lock))
        run = page if marked else end
        fixed = marked and is_fixed(block, page, 0, ALL)
        while run < end and is_fixed(block, run, 0, ALL) == fixed:
            run += 1
        if fixed and pg.side == SIDE_PROTECTION:
            # To drop it would be to forget what the program has protected: it stays, without its bytes.
            if madvise(
                cython.cast(cython.p_void, block.base + (page << block.shift)),
                (run - page) << block.shift,
                MADV_DONTNEED,
            ):
                die("MADV_DONTNEED", errno)
            unlock(cython.address(protect_lock))
            restore_signals(cython.address(signals))
            page = run
            continue
        gate_enter(pg)
        pinned = pager_zap(
            pg, block, block.first + cython.cast(uint32_t, page), cython.cast(uint32_t, run - page), fixed
        )
        gate_leave(pg)
        if fixed:
            while page < run:
                set_fixed(block, page, 0, ALL, False)
                page += 1
        if marked:
            unlock(cython.address(protect_lock))
        restore_signals(cython.address(signals))
        if pinned and zeros:
            memset(cython.cast(cython.p_void, block.base + (page << block.shift)), 0, (run - page) << block.shift)
        page = run


def is_zeros(pg, block, page):
    """True if a page is known to read as zeros: it need not be touched for that, and may be one that was emptied while
    the program has it protected.
    """
    found: cython.bint
    signals: sigset_t
    block_signals(cython.address(signals))
    gate_enter(pg)
    found = loadi(cython.address(pg.registered)) and has_zeros(pg, block.first + cython.cast(uint32_t, page))
    gate_leave(pg)
    restore_signals(cython.address(signals))
    return found


def has_zeros(pg, page):
    """is_zeros() inside of the gate, by the page's number."""
    p: page_p = cython.address(pg.pages[page])
    state: uint32_t = load32(cython.address(p.state))
    found: cython.bint = (state & STATE) == NONE
    i: uint32_t
    if (state & STATE) == SPLIT and cas32(cython.address(p.state), state, BUSY):  # or it could become whole meanwhile
        found = True
        for i in range(parts_of(pg, page)):
            found = found and has_zeros(pg, first_part(pg, page) + i)
        store32(cython.address(p.state), state)
        return found
    if (
        ((state & STATE) == CLEAN or (state & STATE) == OUT)
        and (state & KIND) == RECORD_SAME
        and (state & UNSURE) == 0
        and cas32(cython.address(p.state), state, BUSY)
    ):
        found = p.where == 0
        store32(cython.address(p.state), state)
    return found


def zero_part(block, page, low, high):
    """Zeros in a part of a page, which the program may have protected."""
    if not is_fixed(block, page, low, high):
        memset(cython.cast(cython.p_void, low), 0, high - low)
    elif madvise(cython.cast(cython.p_void, low), high - low, MADV_DONTNEED) != 0:
        die("MADV_DONTNEED", errno)


def reserved_empty(low, high, zeros):
    """madvise(2) of a part of a reserved mapping: 0 or an errno."""
    error: cython.int = ENOMEM
    number: uint32_t
    signals: sigset_t
    block_signals(cython.address(signals))
    lock(cython.address(protect_lock))
    number = arena_find(heap, low)
    if number and heap.blocks[number].reserved:
        error = reserve_empty(cython.address(heap.blocks[number]), low, high, zeros)
    unlock(cython.address(protect_lock))
    restore_signals(cython.address(signals))
    return error


def drop_bytes(pg, block, at, end, zeros):
    """dontneed() in one array whose pages have states: 0 or EINVAL."""
    stop: uint64_t = block.base + (cython.cast(uint64_t, block.pages) << block.shift)
    # A mapping's last page ends where the mapping does. malloc()'s may be used further: malloc_usable_size().
    high: uint64_t = stop if end >= (block.base + whole(block.bytes) if block.mapped else stop) else end
    page: uint64_t = cython.cast(uint64_t, 1) << block.shift
    low: uint64_t = block.base + (at - block.base + page - 1) // page * page
    head: cython.bint
    tail: cython.bint
    stop = block.base + (high - block.base) // page * page
    head = zeros and low > at and not is_zeros(pg, block, (at - block.base) >> block.shift)
    tail = zeros and low <= stop < high and not is_zeros(pg, block, (stop - block.base) >> block.shift)
    # A part of a page, and the program has protected it. With protection it can go: the page stays, and is pinned.
    if pg.side != SIDE_PROTECTION and (
        (head and is_fixed(block, (at - block.base) >> block.shift, at, min(low, end)))
        or (tail and is_fixed(block, (stop - block.base) >> block.shift, stop, high))
    ):
        return EINVAL
    if head:
        zero_part(block, (at - block.base) >> block.shift, at, min(low, end))
    if tail:
        zero_part(block, (stop - block.base) >> block.shift, stop, high)
    if low < stop:
        zap_pages(pg, block, (low - block.base) >> block.shift, (stop - block.base) >> block.shift, zeros)
    return 0


def dontneed(pg, address, n, zeros):
    """madvise(2), MADV_DONTNEED (`zeros`: a promise) or MADV_FREE, in an arena: 0 or an errno."""
    at: uint64_t = address
    end: uint64_t = address + whole(n)
    number: uint32_t
    block: block_p
    stop: uint64_t
    error: cython.int
    while at < end:
        number = 0
        if pg.base <= at < pg.base + pg.size:
            number = load32(cython.address(pg.chunks[(at - pg.base) >> CHUNK_SHIFT]))
        if number == 0:
            return ENOMEM  # as for what is not mapped
        block = cython.address(pg.blocks[number])
        stop = block.base + (cython.cast(uint64_t, block.pages) << block.shift)
        if at >= stop:
            return ENOMEM
        error = 0
        if block.reserved:
            error = reserved_empty(at, min(end, stop), zeros)
        elif not zap_unregistered(pg, at, min(end, stop), zeros):
            error = drop_bytes(pg, block, at, end, zeros)
            stop = block.base + whole(block.bytes)
        if error or end <= stop:
            return error
        at = block.base + (cython.cast(uint64_t, block.chunks) << CHUNK_SHIFT)
    return 0


def any_gone(address, n):
    """True if some piece of a range of mappings has been unmapped."""
    at: uint64_t = address
    low: uint64_t = 0
    high: uint64_t = 0
    number: uint32_t
    piece: uint64_t
    found: cython.bint = False
    signals: sigset_t
    # A handler that touches, for the first time, what was mapped without a reservation wants this lock.
    block_signals(cython.address(signals))
    lock(cython.address(heap.arena_lock))
    while not found:
        number = next_map(cython.address(at), address + n, cython.address(low), cython.address(high))
        if number == 0:
            break
        if heap.blocks[number].marked:
            for piece in range((low - heap_base) // PIECE, (high - heap_base) // PIECE):
                if (heap.gone[piece // 32] >> (piece % 32)) & 1:
                    found = True
                    break
    unlock(cython.address(heap.arena_lock))
    restore_signals(cython.address(signals))
    return found


def map_anew(address, n, protection, flags, fd, offset):
    """mmap(2) with MAP_FIXED onto a mapping: 0 or an errno. Allocators empty it so.

    ENOMEM for what has been unmapped: it is not counted any more, and goes with the last other piece of its array.
    """
    error: cython.int
    if address % PIECE != 0 or n == 0 or not is_mapped(address, whole(n)):
        return EINVAL
    error = reserved_map(address, address + whole(n), protection, flags, fd, offset)
    if error != NOT_RESERVED:
        return error
    if not is_plain(protection, flags & ~MAP_FIXED):
        return EINVAL
    if any_gone(address, whole(n)):
        return ENOMEM
    error = map_protect(address, n, protection)
    return error if error else dontneed(heap, address, n, True)


def reserved_map(low, high, protection, flags, fd, offset):
    """map_anew() for a part of a reserved mapping: 0, an errno, or NOT_RESERVED."""
    error: cython.int = UNREGISTERED
    number: uint32_t
    block: block_p
    signals: sigset_t
    block_signals(cython.address(signals))
    while error == UNREGISTERED:
        lock(cython.address(protect_lock))
        error = NOT_RESERVED
        number = arena_find(heap, low)
        block = cython.address(heap.blocks[number])
        if number and block.reserved:
            error = EINVAL
            if high <= block.base + block.bytes:
                error = reserve_map(block, low, high, protection, flags, fd, offset)
        unlock(cython.address(protect_lock))
        if error == UNREGISTERED and arena_register(heap) != 0:
            error = ENOMEM
    restore_signals(cython.address(signals))
    after_commit()
    return error


def after_commit():
    """What follows an allocation: see arena_allocate()."""
    loose_resume(heap)
    watch_look(heap)


# --- mprotect ----------------------------------------------------------------------------------------


def is_fixed(block, page, low, high):
    """True if the program has protected some piece in [low, high) of a page: the page is pinned then."""
    first: uint64_t = 0
    bits: uint32_t
    if not block.marked:  # it may be of another arena than the heap's
        return False
    bits = piece_bits(block, page, low, high, cython.address(first))
    return (load32(cython.address(heap.fixed[first // 32])) & bits) != 0


def set_fixed(block, page, low, high, on):
    """What is_fixed() says. Under protect_lock."""
    first: uint64_t = 0
    bits: uint32_t = piece_bits(block, page, low, high, cython.address(first))
    if on:
        or32(cython.address(heap.fixed[first // 32]), bits)
    else:
        and32(cython.address(heap.fixed[first // 32]), ~bits)


def fix(number, low, high, protection):
    """Leave the protection of a part of an array to the kernel; 0 or an errno. Under protect_lock.

    A page that is fixed was pinned before it was protected: nothing is stored to it, moved or evicted from then on. All
    are pinned before the first is marked, so those of a call that is refused are told from what was fixed before.
    """
    block: block_p = cython.address(heap.blocks[number])
    first: uint64_t = (low - block.base) >> block.shift
    end: uint64_t = ((high - 1 - block.base) >> block.shift) + 1
    page: uint64_t = first
    while page < end:
        if not is_fixed(block, page, 0, ALL) and pager_pin(heap, block, block.first + cython.cast(uint32_t, page)) < 0:
            while page > first:
                page -= 1
                if not is_fixed(block, page, 0, ALL):
                    pager_unpin(heap, block.first + cython.cast(uint32_t, page))
            return ENOMEM
        page += 1
    block.marked = 1
    for page in range(first, end):
        set_fixed(block, page, low, high, True)
    return 0 if mprotect(cython.cast(cython.p_void, low), high - low, protection) == 0 else errno


def allow(number, low, high):
    """Have the kernel let writers in to a part of an array; 0 or an errno. Under protect_lock.

    On the side of protection only to pages that are fixed: to others the pager lets them in when they are there, and
    what is absent would read as zeros.
    """
    block: block_p = cython.address(heap.blocks[number])
    page: uint64_t = (low - block.base) >> block.shift
    start: uint64_t
    end: uint64_t
    if heap.side != SIDE_PROTECTION:
        return 0 if mprotect(cython.cast(cython.p_void, low), high - low, PROT_READ | PROT_WRITE) == 0 else errno
    while page <= (high - 1 - block.base) >> block.shift:
        start = max(low, block.base + (page << block.shift))
        end = min(high, block.base + ((page + 1) << block.shift))
        if is_fixed(block, page, 0, ALL) and mprotect(
            cython.cast(cython.p_void, start), end - start, PROT_READ | PROT_WRITE
        ):
            return errno
        page += 1
    return 0


def unfix(number, low, high):
    """The pieces in [low, high) may be written again; a page none of which is protected any more is like all others.

    Under protect_lock.
    """
    block: block_p = cython.address(heap.blocks[number])
    page: uint64_t
    for page in range((low - block.base) >> block.shift, ((high - 1 - block.base) >> block.shift) + 1):
        if is_fixed(block, page, low, high):
            set_fixed(block, page, low, high, False)
            if not is_fixed(block, page, 0, ALL):
                pager_unpin(heap, block.first + cython.cast(uint32_t, page))


def map_protect(address, n, protection):
    """mprotect(2) of mappings: 0 or an errno. Registers the arena, for a page has a state only then."""
    error: cython.int = UNREGISTERED
    signals: sigset_t
    if address % PIECE != 0 or not is_mapped(address, whole(n)):
        return EINVAL
    block_signals(cython.address(signals))
    while error == UNREGISTERED:
        lock(cython.address(protect_lock))
        error = protect_parts(address, address + whole(n), protection)
        unlock(cython.address(protect_lock))
        if error == UNREGISTERED:
            error = arena_register(heap)
            if error == 0:
                error = UNREGISTERED
    restore_signals(cython.address(signals))
    after_commit()
    return error


def protect_parts(address, end, protection):
    """map_protect(), mapping by mapping: 0, an errno, or UNREGISTERED: then it begins anew. Under protect_lock."""
    at: uint64_t = address
    low: uint64_t = 0
    high: uint64_t = 0
    number: uint32_t
    block: block_p
    error: cython.int = 0
    while error == 0:
        number = next_map(cython.address(at), end, cython.address(low), cython.address(high))
        if number == 0:
            break
        block = cython.address(heap.blocks[number])
        if block.reserved:
            error = reserve_protect(block, low, high, protection)
        elif protection != (PROT_READ | PROT_WRITE):
            error = fix(number, low, high, protection) if loadi(cython.address(heap.registered)) else UNREGISTERED
        elif block.marked:
            error = allow(number, low, high)
            if error == 0:
                unfix(number, low, high)
    return error
