"""Records: a page's bytes, compressed and checked, and back.

What may enter: how a page becomes a record of the log and how a record becomes the page again, verified. What may
not: where records lie (segments), and who keeps which page (the hooks).
"""

import cython
from cython.cimports.frontswap.core.balance import FROM_DISK, note_hit
from cython.cimports.frontswap.core.choice import codec_compress
from cython.cimports.frontswap.core.codec import (
    CODEC_PACK,
    CODEC_RAW,
    CODEC_ZSTD,
    codec_decompress,
)
from cython.cimports.frontswap.core.contexts import decoder_begin
from cython.cimports.frontswap.core.layout import (
    C_LOADS,
    C_SLOT_LOADS,
    HEADER,
    KIND,
    RECORD_LOG,
    RECORD_SAME,
    STREAM_POOL,
    block_p,
    bytes_p,
    const_record_p,
    length_of,
    offset_of,
    page_bytes,
    page_p,
    segment_of,
)
from cython.cimports.frontswap.core.packs import pack_load
from cython.cimports.frontswap.core.segments import record_get, record_put
from cython.cimports.frontswap.core.uapi import add64, int64_t, load32, load64, loadp, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, strerror


def record_make(pg, ctx, page, data):
    """Compress a page into `ctx.packed`; 1, or 0 when it does not shrink by a sixteenth at least."""
    block: block_p = cython.address(pg.blocks[pg.pages[page].block])
    size: uint32_t = cython.cast(uint32_t, 1) << block.shift
    codec: uint8_t = CODEC_RAW
    length: uint32_t
    ctx.was_tried = True
    length = codec_compress(
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
    ctx.header.settled = 0
    ctx.header.check = check_of(page, length, codec, ctx.packed)
    ctx.is_packed = True
    return 1


def record_plain(pg, ctx, page, data):
    """Make `ctx.header` that of the page as it is."""
    ctx.header.page = page
    ctx.header.length = page_bytes(pg, page)
    ctx.header.codec = CODEC_RAW
    ctx.header.shift = pg.blocks[pg.pages[page].block].shift
    ctx.header.settled = 0
    ctx.header.check = check_of(page, ctx.header.length, CODEC_RAW, data)


def record_load(pg, ctx, page, record, where):
    """Verify a record and decompress it into `ctx.into`; 0 or LOAD_*."""
    p: page_p = cython.address(pg.pages[page])
    size: uint32_t = page_bytes(pg, page)
    length: uint32_t = record.length
    codec: uint8_t = record.codec
    ctx.unpacked = False
    if codec & CODEC_PACK and pg.areas != cython.NULL:
        return pack_load(pg, ctx, page, record, where)
    if record.page != page or HEADER + cython.cast(uint64_t, length) > length_of(where):
        return LOAD_HEADER
    if (cython.cast(uint32_t, 1) << record.shift) != size or (codec == CODEC_RAW and length != size):
        return LOAD_HEADER
    # Compared with the page's own word, not with the header's: a whole old record that a lost write
    # left behind would agree with its own header.
    if check_of(page, length, codec, cython.cast(cython.pointer(uint8_t), record) + HEADER) != p.check:
        return LOAD_CHECKSUM
    if codec == CODEC_RAW:
        memcpy(ctx.into, cython.cast(cython.pointer(uint8_t), record) + HEADER, size)
        return 0
    if codec & CODEC_ZSTD and not ctx.decodes:
        decoder_begin(pg, ctx)
    if codec_decompress(
        codec, ctx.state, cython.cast(cython.pointer(uint8_t), record) + HEADER, length, ctx.scratch, ctx.into, size
    ):
        return LOAD_CODEC
    return 0


def fetch_ahead(pg, number, at, n):
    """Have the processor fetch `n` bytes of a segment, if it is in RAM and has them. What is asked for may be wrong: it
    is a hint, and only a hint is made of it. Somebody keeps the log where it is.
    """
    ram: bytes_p
    end: uint32_t = at + n
    if number >= pg.max_segments or end > pg.segment_bytes:
        return
    ram = loadp(cython.address(pg.segments[number].ram))
    if ram == cython.NULL:
        return
    while at < end:
        prefetch(ram + at)
        at += CACHE_LINE


def record_ahead(pg, page):
    """A page will be loaded soon: have the processor fetch its record.

    The caller owns one whose record is in the log, so the log stays. Who owns this one may be changing all that is
    looked at; by now it may be a page of one word, which is any word.
    """
    p: page_p = cython.address(pg.pages[page])
    where: uint64_t
    if page >= pg.max_pages or (load32(cython.address(p.state)) & KIND) != RECORD_LOG:
        return
    where = load64(cython.cast(cython.pointer(int64_t), cython.address(p.where)))
    fetch_ahead(pg, segment_of(where), offset_of(where), length_of(where) if length_of(where) < FETCHED else FETCHED)


def room_ahead(pg):
    """A record is about to be made: have the processor fetch where it will lie.

    The caller is the backend's store, so the log stays.
    """
    number: uint32_t = pg.open_segment[STREAM_POOL]
    if number != 0:
        fetch_ahead(pg, number, pg.segments[number].fill, FETCHED // 2)


def log_load(pg, ctx, page, state, more):
    """Bring a page whose record is SAME or LOG into `ctx.into`, verified; 0, LOAD_* or an errno. The record stays.

    `more`: see record_get().
    """
    p: page_p = cython.address(pg.pages[page])
    where: uint64_t = p.where
    got: const_record_p = cython.NULL
    words: cython.pointer(uint64_t)
    i: uint32_t
    error: cython.int
    in_ram: cython.bint
    if (state & KIND) == RECORD_SAME:
        words = cython.cast(cython.pointer(uint64_t), ctx.into)
        for i in range(page_bytes(pg, page) // 8):
            words[i] = where
        add64(cython.address(pg.counters[C_LOADS]), 1)
        return 0
    error = record_get(pg, ctx, page, more, cython.address(got))
    if error:
        return error
    if more > 0:
        record_ahead(pg, page + 1)
    error = record_load(pg, ctx, page, got, where)
    in_ram = cython.cast(cython.p_char, got) >= cython.cast(cython.p_char, pg.pool) and (
        cython.cast(cython.p_char, got)
        < cython.cast(cython.p_char, pg.pool) + cython.cast(uint64_t, pg.ram_slots) * pg.segment_bytes
    )
    ctx.source = FROM_DISK
    if in_ram:
        ctx.source = note_hit(pg, segment_of(where), page_bytes(pg, page))
        record_put(pg, where)
    if error == 0:
        add64(cython.address(pg.counters[C_SLOT_LOADS if ctx.source == FROM_DISK else C_LOADS]), 1)
    return error


def load_cause(cause):
    """Why a load failed, for people."""
    if cause == LOAD_CHECKSUM:
        return cython.cast(cython.p_const_char, "its checksum does not match")
    if cause == LOAD_HEADER:
        return cython.cast(cython.p_const_char, "its header names another page or length")
    if cause == LOAD_CODEC:
        return cython.cast(cython.p_const_char, "it does not decompress")
    if cause == LOAD_BACKEND:
        return cython.cast(cython.p_const_char, "the backend that accepted it does not give it back")
    if cause == LOAD_SHORT:
        return cython.cast(cython.p_const_char, "the backend gives a part of it back")
    return strerror(cause)
