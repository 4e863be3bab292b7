"""The hooks: where a page leaves RAM and where it comes back (mm/frontswap.c, v15).

`store` offers a page to the backends in order; the first to accept wins; a page that all refuse goes
to its slot. `load` brings it back, verified. The caller owns the page (page_t.state is BUSY), which is
the page lock of the kernel's contract: nobody else loads, stores or invalidates the same page.

Rule 3 (a refused store leaves no older copy) holds by construction: only a DIRTY page is stored, and a
page becomes DIRTY by dropping its record.
"""

import cython
from cython.cimports.frontswap.core.codec import CODEC_RAW, codec_checksum, codec_decompress
from cython.cimports.frontswap.core.layout import (
    C_FAILED_STORES,
    C_INVALIDATES,
    C_LOADS,
    C_SLOT_LOADS,
    C_SLOT_STORES,
    C_SUCC_STORES,
    HEADER,
    RECORD,
    RECORD_LOG,
    RECORD_NONE,
    RECORD_SAME,
    STREAM_POOL,
    STREAM_SLOT,
    block_p,
    const_record_p,
    length_of,
    page_bytes,
    page_p,
    segment_of,
)
from cython.cimports.frontswap.core.segments import (
    record_append,
    record_drop,
    record_get,
    record_put,
)
from cython.cimports.frontswap.core.uapi import add64, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy


def frontswap_store(pg, ctx, page, data, kind):
    """Store a page that has no record; 1: it comes back by load, 0: nobody took it, not even its slot.

    On success `*kind` is the RECORD_* of the page's new state word.
    """
    i: cython.int
    ctx.is_packed = False
    for i in range(pg.backend_count):
        if pg.backends[i].store(pg, ctx, page, data, kind):
            add64(cython.address(pg.counters[C_SUCC_STORES]), 1)
            return 1
        add64(cython.address(pg.counters[C_FAILED_STORES]), 1)
    return slot_store(pg, ctx, page, data, kind)


def slot_store(pg, ctx, page, data, kind):
    """Write a refused page to the swap file: compressed if a backend has compressed it, else as it is."""
    p: page_p = cython.address(pg.pages[page])
    block: block_p = cython.address(pg.blocks[p.block])
    where: uint64_t
    if pg.file < 0:
        return 0
    if not ctx.is_packed:
        ctx.header.page = page
        ctx.header.length = cython.cast(uint32_t, 1) << block.shift
        ctx.header.codec = CODEC_RAW
        ctx.header.shift = block.shift
        ctx.header.unused = 0
        ctx.header.check = codec_checksum(
            data, ctx.header.length, page | (cython.cast(uint64_t, ctx.header.length) << 32)
        )
    where = record_append(pg, STREAM_SLOT, cython.address(ctx.header), ctx.packed if ctx.is_packed else data)
    if where == 0:
        return 0
    add64(cython.address(pg.counters[C_SLOT_STORES]), 1)
    p.where = where
    p.check = ctx.header.check
    kind[0] = RECORD_LOG
    return 1


def record_load(pg, ctx, page, record, where):
    """Verify a record and decompress it into `ctx.plain`; 0 or LOAD_*."""
    p: page_p = cython.address(pg.pages[page])
    size: uint32_t = page_bytes(pg, page)
    length: uint32_t = record.length
    codec: uint8_t = record.codec
    if record.page != page or HEADER + cython.cast(uint64_t, length) > length_of(where):
        return LOAD_HEADER
    if (cython.cast(uint32_t, 1) << record.shift) != size or (codec == CODEC_RAW and length != size):
        return LOAD_HEADER
    # Compared with the page's own word, not with the header's: a whole old record that a lost write
    # left behind would agree with its own header.
    if (
        codec_checksum(
            cython.cast(cython.pointer(uint8_t), record) + HEADER,
            length,
            page | (cython.cast(uint64_t, length) << 32) | (cython.cast(uint64_t, codec) << 56),
        )
        != p.check
    ):
        return LOAD_CHECKSUM
    if codec == CODEC_RAW:
        memcpy(ctx.plain, cython.cast(cython.pointer(uint8_t), record) + HEADER, size)
        return 0
    if codec_decompress(
        codec, cython.cast(cython.pointer(uint8_t), record) + HEADER, length, ctx.scratch, ctx.plain, size
    ):
        return LOAD_CODEC
    return 0


def frontswap_load(pg, ctx, page, state, more):
    """Bring a page's bytes into `ctx.plain`, verified; 0, LOAD_* or an errno. The record stays.

    `state` is the word that the caller replaced when it took the page; `more`: see record_get().
    """
    p: page_p = cython.address(pg.pages[page])
    where: uint64_t = p.where
    got: const_record_p = cython.NULL
    words: cython.pointer(uint64_t)
    i: uint32_t
    error: cython.int
    in_ram: cython.bint
    in_pool: cython.bint = False  # else the page is in its slot, or in RAM on its way there
    if (state & RECORD) == RECORD_SAME:
        words = cython.cast(cython.pointer(uint64_t), ctx.plain)
        for i in range(page_bytes(pg, page) // 8):
            words[i] = where
        add64(cython.address(pg.counters[C_LOADS]), 1)
        return 0
    error = record_get(pg, ctx, page, more, cython.address(got))
    if error:
        return error
    error = record_load(pg, ctx, page, got, where)
    in_ram = cython.cast(cython.p_char, got) >= cython.cast(cython.p_char, pg.pool) and (
        cython.cast(cython.p_char, got)
        < cython.cast(cython.p_char, pg.pool) + cython.cast(uint64_t, pg.ram_slots) * pg.segment_bytes
    )
    if in_ram:
        in_pool = pg.segments[segment_of(where)].stream == STREAM_POOL
        record_put(pg, where)
    add64(cython.address(pg.counters[C_LOADS if in_pool else C_SLOT_LOADS]), 1)
    return error


def frontswap_invalidate_page(pg, page, state):
    """The page's record is of no use any more: the page is written, or freed."""
    if (state & RECORD) == RECORD_NONE:
        return
    add64(cython.address(pg.counters[C_INVALIDATES]), 1)
    if (state & RECORD) == RECORD_LOG:
        record_drop(pg, pg.pages[page].where, page_bytes(pg, page))
