"""What a fault or a batch of evictions works with: the contexts' buffers, and their part of the limit."""

import cython
from cython.cimports.frontswap.core.codec import codec_decoder_bytes, codec_state_bytes
from cython.cimports.frontswap.core.gate import gate_enter, gate_leave
from cython.cimports.frontswap.core.layout import (
    FAULT_IO,
    FRAME,
    HEADER,
    IO_ALIGN,
    MAX_CONTEXTS,
    PACK_BYTES,
    PACK_ROOM,
    PAGE_TABLE,
    READAHEAD_CONTEXT,
    READAHEAD_IO,
    READAHEAD_THREADS,
    RECLAIM_CONTEXT,
    bytes_p,
    context_p,
)
from cython.cimports.frontswap.core.uapi import (
    MADV_DONTNEED,
    MADV_HUGEPAGE,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    add32,
    add64,
    backoff,
    casi,
    int64_t,
    loadi,
    madvise,
    store64,
    storei,
    uint32_t,
    uint64_t,
)

SOON = cython.declare(cython.int, 1000)  # turns of backoff()


def read_on(pg, most, part):
    """Bytes that are read on in the swap file: `most`, or a `part`-th of a small limit."""
    io: int64_t = pg.limit // part // IO_ALIGN * IO_ALIGN
    return 0 if pg.file < 0 else io if io < most else most


def fault_share(pg, limit, page):
    """Contexts for faults, by a limit and the largest page: at most 5% of the limit goes to them.

    With large pages there are fewer of them, and faulters wait for one.
    """
    n: cython.int = pg.most_contexts
    while n > 1 and n * 5 * cython.cast(int64_t, page) > limit // 20:
        n -= 1
    return n


def huge_share(pg, limit):
    """Huge pages that may leave in one piece at the same time; 0: none does, in this Memory."""
    share: int64_t = limit // 128 // PAGE_TABLE
    if whole_bytes(pg) == 0 or not pg.use_move or share == 0:
        return 0
    share = share if share > 2 else 2  # the thread that reclaims, and who cannot wait for it
    return cython.cast(cython.int, share if share <= pg.most_contexts else pg.most_contexts + 1)


def reserve_bytes(pg, limit, page):
    """What is set aside of a limit when there are pages of `page`: contexts, and seven segments of the log.

    Two segments take refused pages, one is read for cleaning and one filled by it, one is filled while the
    pool's records are still where they were, one is the open end of the pool, and one waits, backed. What is evicted
    stays charged until its frames are given back, but for the records made of it: a huge page that leaves whole has
    2 MiB set aside for them.
    """
    contexts: int64_t = fault_share(pg, limit, page)
    direct: int64_t = page if page > 65536 else 65536
    return (
        7 * cython.cast(int64_t, pg.segment_bytes)
        + (contexts + 1 + READAHEAD_THREADS) * (4 * cython.cast(int64_t, page) + 3 * IO_ALIGN + state_bytes())
        + contexts * (direct + cython.cast(int64_t, pg.contexts[0].io_size))
        + (1 + READAHEAD_THREADS) * (page if page > FRAME else FRAME)
        + READAHEAD_THREADS * cython.cast(int64_t, pg.contexts[READAHEAD_CONTEXT].io_size)
        + huge_share(pg, limit) * cython.cast(int64_t, PAGE_TABLE)
    )


def state_bytes():
    """What a context has backed of its codec's state; the rest is charged when it is needed."""
    return cython.cast(int64_t, codec_state_bytes() - codec_decoder_bytes())


def decoder_begin(pg, ctx):
    """A context meets a record of zstd for the first time: what its state takes more from now on is charged."""
    ctx.decodes = True
    if pg.areas == cython.NULL:  # else contexts are nobody's
        add64(cython.address(pg.beside), codec_decoder_bytes())
        add64(cython.address(pg.used), codec_decoder_bytes())


def buffers_bytes(pg):
    """Addresses that the contexts' buffers take."""
    state: uint64_t = (codec_state_bytes() + IO_ALIGN - 1) // IO_ALIGN * IO_ALIGN
    one: uint64_t = pg.max_page + 4 * (pg.max_page + 4 * IO_ALIGN) + READAHEAD_IO + state + PACK_ROOM
    one += 2 * whole_bytes(pg)
    return MAX_CONTEXTS * ((one + PAGE_TABLE - 1) // PAGE_TABLE * PAGE_TABLE)


def whole_bytes(pg):
    """Addresses for a huge page, where there may be some."""
    return PAGE_TABLE if pg.max_page == PAGE_TABLE and pg.huge_from else 0


def contexts_make(pg):
    """Lay `pg.buffers` out as the contexts' buffers for pages up to max_page.

    Only addresses: contexts_back() backs as much of them as the largest page in use needs. What is read on in the
    swap file goes by the limit of now, also when that changes.
    """
    i: cython.int
    ctx: context_p
    room: uint64_t = pg.max_page + 4 * IO_ALIGN
    one: uint64_t = buffers_bytes(pg) // MAX_CONTEXTS
    # A frame never crosses a page table: see uffd_move().
    at: bytes_p = cython.cast(bytes_p, (cython.cast(uint64_t, pg.buffers) + PAGE_TABLE - 1) // PAGE_TABLE * PAGE_TABLE)
    pg.most_contexts = pg.fault_contexts
    for i in range(MAX_CONTEXTS):
        ctx = cython.address(pg.contexts[i])
        ctx.frame = at
        ctx.whole = at + pg.max_page
        ctx.fresh = ctx.whole + whole_bytes(pg)
        ctx.plain = ctx.into = ctx.fresh + whole_bytes(pg)
        if whole_bytes(pg):
            madvise(ctx.fresh, whole_bytes(pg), MADV_HUGEPAGE)
        ctx.scratch = ctx.plain + room
        ctx.packed = ctx.scratch + room
        ctx.io = ctx.packed + room
        ctx.state = ctx.io + room + READAHEAD_IO
        ctx.pack = ctx.state + (codec_state_bytes() + IO_ALIGN - 1) // IO_ALIGN * IO_ALIGN
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


def contexts_for(pg, page):
    """There will be pages of `page` bytes: take what the contexts need for them out of the budget.

    Called under arena_lock, before a page of that size exists.
    """
    if page <= pg.context_page:
        return
    if pg.areas == cython.NULL:
        limit_apply(pg, pg.limit, page)
    else:
        pg.context_page = page
        contexts_back(pg)


def limit_apply(pg, limit, page):
    """A limit, and the largest page of a Memory, and all that follows from them. Under arena_lock.

    Contexts that are too many now are taken and give their memory back, until there may be more again. One that is not
    given back soon stays as it is, and nobody takes it again: who has it may wait for arena_lock.
    """
    i: cython.int
    n: cython.int = fault_share(pg, limit, page)
    turn: cython.int = 0
    ctx: context_p
    pg.fault_contexts = n
    pg.context_page = page
    for i in range(n, pg.most_contexts):
        ctx = cython.address(pg.contexts[i])
        if ctx.retired:
            continue
        ctx.retired = casi(cython.address(ctx.taken), 0, 1)
        while not ctx.retired and turn < SOON:
            backoff(turn)
            turn += 1
            ctx.retired = casi(cython.address(ctx.taken), 0, 1)
        if ctx.retired:
            madvise(ctx.plain, cython.cast(uint64_t, ctx.state) - cython.cast(uint64_t, ctx.plain), MADV_DONTNEED)
            ctx.io_end = 0  # what it had read is not there any more
    if loadi(cython.address(pg.registered)):
        contexts_back(pg)
    for i in range(n):
        ctx = cython.address(pg.contexts[i])
        if ctx.retired:
            ctx.retired = False
            storei(cython.address(ctx.taken), 0)
    store64(cython.address(pg.limit), limit)
    budget_apply(pg)


def budget_apply(pg):
    """What the limit leaves to pages and records, and what follows from that. Under arena_lock."""
    pg.huge_most = huge_share(pg, pg.limit)
    store64(cython.address(pg.budget), pg.limit - reserve_bytes(pg, pg.limit, pg.context_page))
    pg.low = pg.budget // 32
    pg.high = pg.budget // 16
    pg.epoch_bytes = pg.budget // 16  # epochs of before mean nothing then; they are a hint
    pool_share(pg)


def contexts_back(pg):
    """Back the contexts' buffers for the largest page in use. A Memory that is not registered does without."""
    i: cython.int
    n: cython.int = pg.fault_contexts
    ctx: context_p
    need: uint64_t = pg.context_page + 2 * IO_ALIGN + HEADER
    for i in range(MAX_CONTEXTS):
        if n <= i <= READAHEAD_CONTEXT - READAHEAD_THREADS or (pg.areas != cython.NULL and n <= i < RECLAIM_CONTEXT):
            continue
        ctx = cython.address(pg.contexts[i])
        populate(ctx.plain, pg.context_page)
        populate(ctx.scratch, pg.context_page)
        populate(ctx.packed, need)
        populate(ctx.io, need + ctx.io_size)
        populate(ctx.state, state_bytes())
    if pg.areas == cython.NULL:
        madvise(pg.zeros, pg.max_page, MADV_POPULATE_READ)


def contexts_open(pg):
    """Back what the contexts of areas need for packs (packs.py), before there is one: who loads waits for no frames."""
    i: cython.int
    ctx: context_p
    for i in range(MAX_CONTEXTS):
        if pg.fault_contexts <= i < RECLAIM_CONTEXT:
            continue
        ctx = cython.address(pg.contexts[i])
        populate(ctx.scratch, PACK_BYTES)
        populate(ctx.state, codec_state_bytes())
        populate(ctx.pack, PACK_ROOM)


def contexts_forget(pg):
    """No context knows a pack of the pool that was here before: places there are others in the next one."""
    i: cython.int
    for i in range(MAX_CONTEXTS):
        pg.contexts[i].pack_segment = 0


def pool_share(pg):
    """What zcache may take of a Memory's limit.

    Pages that compress fill up to three quarters, or zcache:size=, before the coldest are written out; without a
    swap file, or a budget for it, there is no other place for them. What balance.py has made of it stays the same part.
    """
    before: int64_t = pg.pool_soft
    disk: cython.bint = pg.file >= 0 and loadi(cython.address(pg.write_spent)) == 0
    pg.pool_soft = pg.budget // 4 * 3 if disk else pg.budget - pg.budget // 16
    if pg.pool_most and pg.pool_most < pg.pool_soft:
        pg.pool_soft = pg.pool_most
    pg.pool_target = (
        cython.cast(int64_t, cython.cast(cython.double, pg.pool_soft) * pg.pool_target / before)
        if pg.pool_target < before
        else pg.pool_soft
    )
    pg.pool_hard = pg.pool_soft + (4 * cython.cast(int64_t, pg.segment_bytes) if pg.file >= 0 else 0)


# --- who works with one --------------------------------------------------------------------------


def context_take(pg):
    """A context for a fault; waits while all are in use, holding nothing. Of a Memory: inside the gate only."""
    i: cython.int
    turn: cython.int = 0
    while True:
        for i in range(pg.fault_contexts):
            if loadi(cython.address(pg.contexts[i].taken)) == 0 and casi(cython.address(pg.contexts[i].taken), 0, 1):
                return cython.address(pg.contexts[i])
        backoff(turn)
        turn += 1


def context_give(ctx):
    """End of context_take()."""
    storei(cython.address(ctx.taken), 0)


def work_enter(pg):
    """Enter the gate with a context, for one page of long work.

    In this order: who had a context and waited at a closed gate would keep it from those inside, for whom the
    closer waits.
    """
    gate_enter(pg)
    return context_take(pg)


def work_leave(pg, ctx):
    """End of work_enter()."""
    context_give(ctx)
    gate_leave(pg)
