"""The arena: one large reservation of addresses, handed out to arrays, and the space that backs them.

Allocation and freeing only; no fault comes here. Called with or without the GIL, under arena_lock and
with signals blocked (a handler of the program that faults must not find our lock taken by its thread).
"""

import cython
from cython.cimports.frontswap.core.codec import codec_choice_init, codec_state_bytes
from cython.cimports.frontswap.core.gate import gate_enter, gate_leave
from cython.cimports.frontswap.core.layout import (
    CHUNK_SHIFT,
    FAULT_IO,
    FRAME,
    HEADER,
    IO_ALIGN,
    MAX_CONTEXTS,
    PAGE_TABLE,
    READAHEAD_CONTEXT,
    READAHEAD_IO,
    READAHEAD_THREADS,
    RECLAIM_CONTEXT,
    block_p,
    bytes_p,
    context_p,
)
from cython.cimports.frontswap.core.pager import pager_zap
from cython.cimports.frontswap.core.registration import threads_start
from cython.cimports.frontswap.core.swapfile import swap_grow
from cython.cimports.frontswap.core.uapi import (
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_NOHUGEPAGE,
    MADV_POPULATE_WRITE,
    MAP_ANONYMOUS,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    add32,
    backoff,
    block_signals,
    cas32,
    casi,
    int64_t,
    load32,
    lock,
    madvise,
    mmap,
    restore_signals,
    sigset_t,
    store32,
    store64,
    uint8_t,
    uint32_t,
    uint64_t,
    unlock,
)
from cython.cimports.libc.string import memmove, memset

NOWHERE = cython.declare(uint64_t, 0xFFFFFFFFFFFFFFFF)
EXTRA_SLOTS = cython.declare(cython.uint, 10)


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


# --- extents -------------------------------------------------------------------------------------


def extent_insert(e, at, start, count):
    """Open a place in the table."""
    memmove(cython.address(e.start[at + 1]), cython.address(e.start[at]), (e.n - at) * 8)
    memmove(cython.address(e.count[at + 1]), cython.address(e.count[at]), (e.n - at) * 8)
    e.start[at] = start
    e.count[at] = count
    e.n += 1


def extent_remove(e, at):
    """Close a place in the table."""
    e.n -= 1
    memmove(cython.address(e.start[at]), cython.address(e.start[at + 1]), (e.n - at) * 8)
    memmove(cython.address(e.count[at]), cython.address(e.count[at + 1]), (e.n - at) * 8)


def extent_take(e, count, align):
    """Take `count` units at a multiple of `align`, the lowest that are free; their start, or NOWHERE."""
    i: uint32_t
    start: uint64_t
    lead: uint64_t
    tail: uint64_t
    for i in range(e.n):
        start = (e.start[i] + align - 1) // align * align
        lead = start - e.start[i]
        if e.count[i] < lead + count:
            continue
        tail = e.count[i] - lead - count
        if lead and tail:
            if e.n == e.capacity:
                return NOWHERE
            extent_insert(e, i + 1, start + count, tail)
            e.count[i] = lead
        elif lead:
            e.count[i] = lead
        elif tail:
            e.start[i] = start + count
            e.count[i] = tail
        else:
            extent_remove(e, i)
        return start
    return NOWHERE


def extent_give(e, start, count):
    """Give units back, joined with their neighbours; False if the table is full (they are lost then)."""
    low: uint32_t = 0
    high: uint32_t = e.n
    middle: uint32_t
    before: cython.bint
    after: cython.bint
    while low < high:
        middle = (low + high) // 2
        if e.start[middle] < start:
            low = middle + 1
        else:
            high = middle
    before = low > 0 and e.start[low - 1] + e.count[low - 1] == start
    after = low < e.n and start + count == e.start[low]
    if before and after:
        e.count[low - 1] += count + e.count[low]
        extent_remove(e, low)
    elif before:
        e.count[low - 1] += count
    elif after:
        e.start[low] = start
        e.count[low] += count
    else:
        if e.n == e.capacity:
            return False
        extent_insert(e, low, start, count)
    return True


# --- what backs an allocation --------------------------------------------------------------------


def slots_for(pg, allocated):
    """Slots that back `allocated` bytes: what does not fit in RAM, an eighth for cleaning, and some more.

    Clean pages need no slot beside their frame: when slots are short, a page gives its record up as it
    comes in (swap_tight), so what is resident does not count twice.
    """
    beyond: int64_t = allocated - pg.budget // 8 * 7
    if beyond <= 0:
        return EXTRA_SLOTS
    return cython.cast(uint32_t, (beyond + beyond // 8) // pg.segment_bytes) + EXTRA_SLOTS


def reserve(pg, allocated):
    """Make sure that `allocated` bytes can always be kept (rule 2); 0, NO_ALLOCATION or an errno."""
    if pg.file < 0:
        return 0 if allocated <= pg.allocate_most else NO_ALLOCATION
    return swap_grow(pg, slots_for(pg, allocated) + pg.leased_slots)


def place(pg, bytes, page, typesize, kind, error):
    """arena_allocate() under the lock."""
    shift: cython.int = 0
    pages: uint64_t
    chunks: uint64_t
    at: uint64_t
    first: uint64_t
    number: uint32_t
    i: uint64_t
    block: block_p
    if bytes > pg.size:
        error[0] = NO_ADDRESSES
        return 0
    while (cython.cast(uint32_t, 1) << shift) < page:
        shift += 1
    pages = (bytes + page - 1) >> shift
    chunks = ((pages << shift) + (1 << CHUNK_SHIFT) - 1) >> CHUNK_SHIFT
    error[0] = contexts_back(pg, page)
    if error[0] == 0:
        error[0] = reserve(pg, pg.allocated + cython.cast(int64_t, pages << shift))
    if error[0] != 0:
        return 0
    number = pg.free_block
    if number == 0 and pg.used_blocks + 1 >= pg.max_blocks:
        error[0] = NO_ADDRESSES
        return 0
    at = extent_take(cython.address(pg.space), chunks, 1 if shift <= CHUNK_SHIFT else 1 << (shift - CHUNK_SHIFT))
    if at == NOWHERE:
        error[0] = NO_ADDRESSES
        return 0
    first = extent_take(cython.address(pg.ids), pages, 1)
    if first == NOWHERE:
        extent_give(cython.address(pg.space), at, chunks)
        error[0] = NO_ADDRESSES
        return 0
    if number:
        pg.free_block = pg.blocks[number].first
    else:
        pg.used_blocks += 1
        number = pg.used_blocks
    pg.serial += 1
    block = cython.address(pg.blocks[number])
    memset(block, 0, cython.sizeof(block[0]))
    block.base = pg.base + (at << CHUNK_SHIFT)
    block.bytes = bytes
    block.first = cython.cast(uint32_t, first)
    block.pages = cython.cast(uint32_t, pages)
    block.chunk = cython.cast(uint32_t, at)
    block.chunks = cython.cast(uint32_t, chunks)
    block.shift = cython.cast(uint8_t, shift)
    codec_choice_init(cython.address(block.choice), typesize, kind if kind >= 0 else pg.codec_kind)
    store32(cython.address(block.serial), pg.serial)
    store32(cython.address(block.live), 1)
    pg.allocated += cython.cast(int64_t, pages << shift)
    if not pg.sigbus:
        # A poison marker of an earlier array would meet the first fault of this one.
        madvise(cython.cast(cython.p_void, block.base), pages << shift, MADV_DONTNEED)
    for i in range(chunks):
        store32(cython.address(pg.chunks[at + i]), number)
    return block.base


def arena_allocate(pg, bytes, page, typesize, kind, error):
    """Addresses for `bytes` (> 0) of zeros in pages of `page`; 0 and `*error` when refused."""
    signals: sigset_t
    address: uint64_t
    block_signals(cython.address(signals))
    gate_enter(pg)
    lock(cython.address(pg.arena_lock))
    address = place(pg, bytes, page, typesize, kind, error)
    unlock(cython.address(pg.arena_lock))
    gate_leave(pg)
    if pg.thread_count == 0:
        threads_start(pg)  # a forked child, of a C library say; without them it works, too
    restore_signals(cython.address(signals))
    return address


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
    number: uint32_t = arena_find(pg, address)
    block: block_p = cython.address(pg.blocks[number])
    i: uint64_t
    if number == 0 or block.base != address or not cas32(cython.address(block.live), 1, 0):
        return False
    block_signals(cython.address(signals))
    gate_enter(pg)
    pager_zap(pg, block, block.first, block.pages, True)
    lock(cython.address(pg.arena_lock))
    for i in range(block.chunks):
        store32(cython.address(pg.chunks[block.chunk + i]), 0)
    pg.allocated -= cython.cast(int64_t, block.pages) << block.shift
    extent_give(cython.address(pg.space), block.chunk, block.chunks)
    extent_give(cython.address(pg.ids), block.first, block.pages)
    block.first = pg.free_block
    pg.free_block = number
    unlock(cython.address(pg.arena_lock))
    gate_leave(pg)
    restore_signals(cython.address(signals))
    return True


# --- contexts ------------------------------------------------------------------------------------


def read_on(pg, most, part):
    """Bytes that are read on in the swap file: `most`, or a `part`-th of a small limit."""
    io: int64_t = pg.limit // part // IO_ALIGN * IO_ALIGN
    return 0 if pg.file < 0 else io if io < most else most


def reserve_bytes(pg, page, contexts):
    """What is set aside of the limit: contexts, and seven segments of the log.

    Two segments take refused pages, one is read for cleaning and one filled by it, one is filled while the
    pool's records are still where they were, one is the open end of the pool, and one waits, backed.
    """
    direct: int64_t = page if page > 65536 else 65536
    return (
        7 * cython.cast(int64_t, pg.segment_bytes)
        + (contexts + 1 + READAHEAD_THREADS) * (4 * cython.cast(int64_t, page) + 3 * IO_ALIGN + codec_state_bytes())
        + contexts * (direct + read_on(pg, FAULT_IO, 512))
        + (1 + READAHEAD_THREADS) * (page if page > FRAME else FRAME)
        + READAHEAD_THREADS * read_on(pg, READAHEAD_IO, 128)
    )


def buffers_bytes(pg):
    """Addresses that the contexts' buffers take."""
    state: uint64_t = (codec_state_bytes() + IO_ALIGN - 1) // IO_ALIGN * IO_ALIGN
    one: uint64_t = pg.max_page + 4 * (pg.max_page + 4 * IO_ALIGN) + READAHEAD_IO + state
    return MAX_CONTEXTS * ((one + PAGE_TABLE - 1) // PAGE_TABLE * PAGE_TABLE)


def contexts_make(pg):
    """Lay `pg.buffers` out as the contexts' buffers for pages up to max_page.

    Only addresses: contexts_back() backs as much of them as the largest page in use needs.
    """
    i: cython.int
    ctx: context_p
    room: uint64_t = pg.max_page + 4 * IO_ALIGN
    one: uint64_t = buffers_bytes(pg) // MAX_CONTEXTS
    # A frame never crosses a page table: see uffd_move().
    at: bytes_p = cython.cast(bytes_p, (cython.cast(uint64_t, pg.buffers) + PAGE_TABLE - 1) // PAGE_TABLE * PAGE_TABLE)
    for i in range(MAX_CONTEXTS):
        ctx = cython.address(pg.contexts[i])
        ctx.frame = at
        ctx.plain = ctx.into = at + pg.max_page
        ctx.scratch = ctx.plain + room
        ctx.packed = ctx.scratch + room
        ctx.io = ctx.packed + room
        ctx.state = ctx.io + room + READAHEAD_IO
        ctx.io_size = read_on(pg, FAULT_IO, 512)
        if i > READAHEAD_CONTEXT - READAHEAD_THREADS:
            ctx.io_size = read_on(pg, READAHEAD_IO, 128) if i != RECLAIM_CONTEXT else 0
        at += one


def populate(at, length):
    """Back a buffer that somebody may be using: its bytes do not change."""
    i: uint64_t
    if madvise(at, length, MADV_POPULATE_WRITE) != 0:  # before 5.14
        for i in range(0, length, 4096):
            add32(cython.cast(cython.pointer(uint32_t), at + i), 0)


def contexts_back(pg, page):
    """Back the contexts for pages of `page` bytes, and take them out of the budget; 0 or an errno.

    Called under arena_lock, before a page of that size exists. At most 5% of the limit goes to the
    contexts of faults: with large pages there are fewer of them, and faulters wait for one.
    """
    i: cython.int
    n: cython.int = pg.fault_contexts
    turn: cython.int
    ctx: context_p
    need: uint64_t = page + 2 * IO_ALIGN + HEADER
    if page <= pg.context_page:
        return 0
    while pg.areas == cython.NULL and n > 1 and n * 5 * cython.cast(int64_t, page) > pg.limit // 20:
        n -= 1
    for i in range(MAX_CONTEXTS):
        if n <= i <= READAHEAD_CONTEXT - READAHEAD_THREADS or (pg.areas != cython.NULL and n <= i < RECLAIM_CONTEXT):
            continue
        ctx = cython.address(pg.contexts[i])
        populate(ctx.plain, page)
        populate(ctx.scratch, page)
        populate(ctx.packed, need)
        populate(ctx.io, need + ctx.io_size)
        populate(ctx.state, codec_state_bytes())
    # Those that are too many now stay taken for good, and give their memory back.
    for i in range(n, pg.fault_contexts):
        ctx = cython.address(pg.contexts[i])
        turn = 0
        while not casi(cython.address(ctx.taken), 0, 1):
            backoff(turn)
            turn += 1
        madvise(ctx.plain, cython.cast(uint64_t, ctx.state) - cython.cast(uint64_t, ctx.plain), MADV_DONTNEED)
    pg.fault_contexts = n
    pg.context_page = page
    if pg.areas != cython.NULL:
        return 0
    store64(cython.address(pg.budget), pg.limit - reserve_bytes(pg, page, n))
    pg.low = pg.budget // 32
    pg.high = pg.budget // 16
    pg.epoch_bytes = pg.budget // 16
    pool_share(pg)
    return 0


def pool_share(pg):
    """What zcache may take of a Memory's limit.

    Pages that compress fill up to three quarters, or zcache:size=, before the coldest are written out; without a
    swap file there is no other place for them.
    """
    pg.pool_soft = pg.budget // 4 * 3 if pg.file >= 0 else pg.budget - pg.budget // 16
    if pg.pool_most and pg.pool_most < pg.pool_soft:
        pg.pool_soft = pg.pool_most
    pg.pool_hard = pg.pool_soft + (4 * cython.cast(int64_t, pg.segment_bytes) if pg.file >= 0 else 0)
