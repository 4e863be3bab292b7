"""zcache: compressed pages in RAM, the first backend behind the hooks.

Decides what is accepted, what goes to the swap file and when: same-filled pages cost nothing;
what does not shrink is refused; above its share of the limit the coldest segments leave as they are,
compressed. Where records lie is the record log's business (segments), how they are made the codec's.
"""

import cython
from cython.cimports.frontswap.core.cleaner import clean_disk, clean_ram
from cython.cimports.frontswap.core.codec import (
    CODEC_RAW,
    codec_checksum,
    codec_compress,
    codec_same_filled,
)
from cython.cimports.frontswap.core.layout import (
    C_REJECT_INCOMPRESSIBLE,
    C_REJECT_POOL_FULL,
    C_SAME_FILLED,
    HEADER,
    RECORD_LOG,
    RECORD_SAME,
    SEG_OPEN,
    SEG_SEALED,
    STREAM_POOL,
    block_p,
    page_p,
    pager_p,
    segment_p,
)
from cython.cimports.frontswap.core.segments import (
    record_append,
    write_coldest,
    write_slot_stream,
)
from cython.cimports.frontswap.core.swapfile import swap_tight
from cython.cimports.frontswap.core.uapi import (
    add64,
    int64_t,
    load64,
    loadi,
    sleep_on,
    storei,
    uint8_t,
    uint32_t,
    uint64_t,
    wake,
)


def record_make(pg, ctx, page, data):
    """Compress a page into `ctx.packed`; 1, or 0 when it does not shrink by a sixteenth at least."""
    block: block_p = cython.address(pg.blocks[pg.pages[page].block])
    size: uint32_t = cython.cast(uint32_t, 1) << block.shift
    codec: uint8_t = CODEC_RAW
    length: uint32_t = codec_compress(
        cython.address(block.choice),
        ctx.state,
        data,
        size,
        ctx.scratch,
        ctx.packed,
        size - size // 16,
        cython.address(codec),
    )
    if length == 0:
        return 0
    ctx.header.page = page
    ctx.header.length = length
    ctx.header.codec = codec
    ctx.header.shift = block.shift
    ctx.header.unused = 0
    ctx.header.check = codec_checksum(
        ctx.packed, length, page | (cython.cast(uint64_t, length) << 32) | (cython.cast(uint64_t, codec) << 56)
    )
    ctx.is_packed = True
    return 1


def zcache_store(pg, ctx, page, data, kind):
    """The backend's store: 1 accepted, 0 refused. `ctx.is_packed` says that `ctx.packed` may be used further."""
    p: page_p = cython.address(pg.pages[page])
    value: uint64_t = 0
    where: uint64_t
    tries: cython.int
    if codec_same_filled(data, cython.cast(uint32_t, 1) << pg.blocks[p.block].shift, cython.address(value)):
        add64(cython.address(pg.counters[C_SAME_FILLED]), 1)
        p.where = value
        kind[0] = RECORD_SAME
        return 1
    if not record_make(pg, ctx, page, data):
        add64(cython.address(pg.counters[C_REJECT_INCOMPRESSIBLE]), 1)
        return 0
    if load64(cython.address(pg.pool_bytes)) > pool_limit(pg, pg.pool_soft):
        wake(cython.address(pg.writeback_event))
    # The writeback thread has fallen behind: who fills the pool helps to empty it.
    for tries in range(4):
        if load64(cython.address(pg.pool_bytes)) + HEADER + ctx.header.length <= pool_limit(pg, pg.pool_hard):
            break
        if write_coldest(pg) != 0:
            break
    if load64(cython.address(pg.pool_bytes)) + HEADER + ctx.header.length > pool_limit(pg, pg.pool_hard):
        add64(cython.address(pg.counters[C_REJECT_POOL_FULL]), 1)
        return 0
    where = record_append(pg, STREAM_POOL, cython.address(ctx.header), ctx.packed)
    if where == 0:
        add64(cython.address(pg.counters[C_REJECT_POOL_FULL]), 1)
        return 0
    p.where = where
    p.check = ctx.header.check
    kind[0] = RECORD_LOG
    return 1


def pool_limit(pg, most):
    """What the pool may take at this moment: what is pinned cannot make room for it."""
    left: int64_t = pg.budget - pg.budget // 8 - load64(cython.address(pg.pinned))
    return most if most < left else left


def pool_is_sparse(pg):
    """True when more than an eighth of the pool is dead."""
    filled: int64_t = 0
    live: int64_t = 0
    i: uint32_t
    s: segment_p
    for i in range(1, pg.next_segment):
        s = cython.address(pg.segments[i])
        if s.stream == STREAM_POOL and (s.state == SEG_SEALED or s.state == SEG_OPEN):
            filled += s.fill
            live += loadi(cython.address(s.live))
    return filled - live > filled // 8 + 2 * cython.cast(int64_t, pg.segment_bytes)


def writeback_thread(argument):
    """Background: keeps the pool within its share and dense, and slots of the swap file free."""
    pg: pager_p = cython.cast(pager_p, argument)
    working: cython.bint
    found: cython.int
    while not pg.closing:
        sleep_on(cython.address(pg.writeback_event), -1)
        working = True
        while working and not pg.closing:
            working = False
            if write_slot_stream(pg) == 0:
                working = True
            if load64(cython.address(pg.pool_bytes)) > pool_limit(pg, pg.pool_soft) and write_coldest(pg) == 0:
                working = True
            elif pool_is_sparse(pg) and clean_ram(pg) > 0:
                working = True
            if pg.slots and swap_tight(pg):
                found = clean_disk(pg)
                if found > 0:
                    working = True
                elif found < 0:
                    storei(cython.address(pg.no_slots), 1)
    return cython.NULL
