"""Packing: several pages of a batch of recompress.py become one pack (packs.py), and what takes its place later.

Records that follow each other and have got the same quick codec are alike, so they go together, behind the same
transform. The thread that packs needs nothing but the batch; the writeback thread puts a pack into the log once, and
then tells its members one by one.

Races, and what prevents them, beside those of recompress.py:

* A pack is in the log, and its members are told in turn: meanwhile those told may be stored anew, and its segment be
  full, cleaned, emptied. What is appended counts as alive until the last one has been told, so the segment stays.
  Where it has been moved from meanwhile, the old copy lives on for those who are told later.
* A page that changes between the copy and its turn keeps what it has then: it is in the list, and no member.
* What a record costs its members is together what it takes, and costs none more than its own record did: so nobody is
  charged beyond his quota.
"""

import cython
from cython.cimports.frontswap.core.balance import FEW, density, note_move, pool_wanted
from cython.cimports.frontswap.core.codec import (
    CODEC_DECIMALS,
    CODEC_KIND,
    CODEC_LZ4,
    CODEC_PACK,
    CODEC_RAW,
    CODEC_SHUFFLE,
    CODEC_ZSTD,
    codec_checksum,
    codec_choice,
    codec_compress,
    codec_decompress,
)
from cython.cimports.frontswap.core.dense import densify_record, frame
from cython.cimports.frontswap.core.layout import (
    BUSY,
    C_PACKED_LATER,
    C_RECOMPRESSED,
    C_RECOMPRESSED_BYTES,
    CLEAN,
    HASTY,
    HEADER,
    KIND,
    OUT,
    PACK_BYTES,
    PACK_PAGE,
    PACK_PARTS,
    PLAIN,
    PRESSURE_CRITICAL,
    PRESSURE_NONE,
    RECORD_LOG,
    STATE,
    STREAM_DENSE,
    STREAM_POOL,
    UNIT,
    bytes_p,
    dense_p,
    group_p,
    group_t,
    is_plain,
    length_of,
    member_p,
    member_t,
    offset_of,
    pack,
    page_bytes,
    page_p,
    pressure_of,
    record_p,
    segment_of,
    segment_p,
)
from cython.cimports.frontswap.core.packs import group_of, members_of, part_of
from cython.cimports.frontswap.core.record import check_of, record_make, record_plain
from cython.cimports.frontswap.core.segments import record_append, record_drop, record_on_disk
from cython.cimports.frontswap.core.shares import pool_charge, pool_uncharge
from cython.cimports.frontswap.core.uapi import (
    add64,
    addi,
    cas32,
    int32_t,
    int64_t,
    load32,
    load64,
    store32,
    uint8_t,
    uint16_t,
    uint32_t,
    uint64_t,
    wake,
)
from cython.cimports.libc.string import memset

GAIN = cython.declare(uint32_t, 20)  # a pack that is shorter than its members' records by less than this part is none
LIST = cython.declare(uint32_t, cython.sizeof(group_t) + PACK_PARTS * cython.sizeof(member_t))


def widest(pg, page):
    """Bytes that are packed at once at most, where the largest page is so large."""
    return page if pg.areas == cython.NULL or page > PACK_BYTES else PACK_BYTES


def packs_bytes(pg):
    """Of the buffer for the packs of a batch, beside the batch: the one that is being made."""
    return (HEADER + LIST + PACK_BYTES + 4095) // 4096 * 4096


# --- the packing thread's part -----------------------------------------------------------------------------------


def is_sound(one, header):
    """True for a record of a batch that has the bytes which its page was stored with."""
    return (
        header.length + HEADER <= length_of(one.where)
        and check_of(header.page, header.length, header.codec, cython.cast(bytes_p, header) + HEADER) == one.check
    )


def packs_make(pg, encoder):
    """Make packs of a batch, in `dense_packs`; dense_t.group says which one a record is in."""
    members: uint32_t[PACK_PARTS]
    tried: uint64_t = 0
    first: uint32_t
    i: uint32_t
    n: uint32_t
    at: uint32_t = 0
    length: uint32_t
    for first in range(cython.cast(uint32_t, pg.dense_count)):
        if pg.closing or pg.pool_closing:
            break
        if tried >> first & 1:
            continue
        n = pack_gather(pg, first, cython.address(tried), members)
        if n < 2:
            continue
        length = pack_make(pg, encoder, members, n, cython.cast(record_p, pg.dense_packs + at))
        if length == 0:
            continue
        for i in range(n):
            pg.dense_batch[members[i]].group = at + 1
        at += length


def pack_gather(pg, first, tried, members):
    """Decompress the page of record `first`, and those of further ones like it, into `dense_plain`; how many."""
    header: record_p = cython.cast(record_p, pg.dense_io + pg.dense_batch[first].at)
    codec: uint8_t = header.codec
    shift: uint32_t = header.shift
    size: uint32_t = cython.cast(uint32_t, 1) << shift
    i: uint32_t
    n: uint32_t = 0
    for i in range(first, cython.cast(uint32_t, pg.dense_count)):
        header = cython.cast(record_p, pg.dense_io + pg.dense_batch[i].at)
        if (n + 1) * size > PACK_BYTES or n == PACK_PARTS:
            break
        if (
            tried[0] >> i & 1
            or header.codec != codec
            or header.shift != shift
            or codec == CODEC_RAW
            or codec & CODEC_ZSTD
            or size > PACK_PAGE
        ):
            continue
        tried[0] |= cython.cast(uint64_t, 1) << i
        if is_sound(cython.address(pg.dense_batch[i]), header) and not codec_decompress(
            codec,
            pg.dense_state,
            cython.cast(bytes_p, header) + HEADER,
            header.length,
            pg.dense_tmp,
            pg.dense_plain + n * size,
            size,
        ):
            members[n] = i
            n += 1
    return n


def pack_make(pg, encoder, members, n, header):
    """Make the record of a pack of the pages in `dense_plain`; what it takes in the log, 0: it is not worth it."""
    one: record_p = cython.cast(record_p, pg.dense_io + pg.dense_batch[members[0]].at)
    group: group_p = group_of(header)
    list: uint32_t = cython.sizeof(group_t) + n * cython.sizeof(member_t)
    bytes: uint32_t = n << one.shift
    size: uint32_t = cython.cast(uint32_t, 1) << one.shift
    before: uint32_t = 0
    length: uint32_t
    i: uint32_t
    made: uint8_t = 0
    group.whole = one.shift
    while size < bytes:
        size *= 2
        group.whole += 1
    memset(pg.dense_plain + bytes, 0, size - bytes)
    for i in range(n):
        before += length_of(pg.dense_batch[members[i]].where)
    length = before - before // GAIN - HEADER - list
    if length > before:
        return 0
    length = pack_frame(pg, encoder, one.codec, size, cython.cast(bytes_p, group) + list, length, cython.address(made))
    if length == 0:
        return 0
    group.check = codec_checksum(pg.dense_plain, size, 0)
    group.length = length
    group.count = cython.cast(uint16_t, n)
    group.parts = cython.cast(uint8_t, n)
    group.shift = one.shift
    header.page = 0
    header.length = list + length
    header.codec = made | CODEC_PACK
    header.shift = one.shift
    header.settled = 1
    pack_share(pg, members, n, before, header)
    header.check = check_of(0, header.length, header.codec, cython.cast(bytes_p, group))
    return (HEADER + header.length + UNIT - 1) // UNIT * UNIT


def pack_frame(pg, encoder, codec, size, dst, most, made):
    """Compress `size` bytes of `dense_plain`, behind the transform of a quick codec; the length, or 0."""
    choice: codec_choice
    kind: uint8_t = codec & CODEC_KIND
    length: uint32_t
    if kind == CODEC_LZ4:
        made[0] = codec | CODEC_ZSTD
        return frame(encoder, size, pg.dense_plain, size, dst, most)
    memset(cython.address(choice), 0, cython.sizeof(choice))
    choice.best = 10 if kind == CODEC_DECIMALS else (codec >> 4) + (0 if kind == CODEC_SHUFFLE else 5)
    choice.candidates = cython.cast(uint16_t, 1 << choice.best)
    choice.pages = 3  # it takes no samples
    length = codec_compress(
        cython.address(choice), pg.dense_state, pg.dense_plain, size, pg.dense_tmp, pg.dense_out, size, made
    )
    if length == 0:
        return 0
    return densify_record(made[0], encoder, pg.dense_out, length, pg.dense_tmp, dst, most, size, made)


def pack_share(pg, members, n, before, header):
    """Share what a pack takes out among its members, by what their records take, which is `before` together."""
    member: member_p = members_of(group_of(header))
    left: int64_t = (HEADER + header.length + UNIT - 1) // UNIT
    total: int64_t = left
    old: int64_t
    i: uint32_t
    for i in range(n):
        old = length_of(pg.dense_batch[members[i]].where) // UNIT
        member[i].page = cython.cast(record_p, pg.dense_io + pg.dense_batch[members[i]].at).page
        member[i].part = cython.cast(uint16_t, i)
        member[i].units = cython.cast(uint16_t, max(total * old * UNIT // before, 1))
        left -= member[i].units
    for i in range(n):
        if left > 0 and member[i].units < length_of(pg.dense_batch[members[i]].where) // UNIT:
            member[i].units += 1
            left -= 1
    # Zeros behind the frame: each place has a length.
    while left < 0:
        memset(cython.cast(bytes_p, header) + HEADER + header.length, 0, UNIT)
        header.length += UNIT
        left += 1


# --- the writeback thread's part ---------------------------------------------------------------------------------


def is_tight(pg, length):
    """True if there is no room for a record beside those that it is to replace."""
    return load64(cython.address(pg.pool_bytes)) + length > pg.pool_hard or (
        pg.areas == cython.NULL and load64(cython.address(pg.used)) + length > pg.budget
    )


def batch_claim(pg, one, page, state):
    """Own a page that still has the record which was copied; False: it has not, or somebody owns it."""
    p: page_p = cython.address(pg.pages[page])
    word: uint32_t = load32(cython.address(p.state))
    if (
        (word & KIND) != RECORD_LOG
        or ((word & STATE) != OUT and (word & STATE) != CLEAN)
        or p.where != one.where
        or not cas32(cython.address(p.state), word, BUSY)
    ):
        return False
    # Looked at again as its owner, and the segment with it: what has a record that lives is not freed. What has gone to
    # the disk meanwhile stays there.
    if (
        p.where != one.where
        or p.check != one.check
        or pg.segments[segment_of(one.where)].serial != pg.dense_serial
        or record_on_disk(pg, one.where)
    ):
        store32(cython.address(p.state), word)
        return False
    state[0] = word
    return True


def batch_replaced(pg, one, page, shift, place):
    """A page has got another record at `place`, and is its own again: it may be anything by now. Drop the old one."""
    s: segment_p = cython.address(pg.segments[segment_of(one.where)])
    length: uint32_t = length_of(one.where)
    if not pg.dense_staged:
        note_move(pg, s, segment_of(place), shift)
    pg.dense_left += length
    if is_plain(one.where, cython.cast(uint32_t, 1) << shift):
        add64(cython.address(pg.counters[C_PACKED_LATER]), 1)
    else:
        add64(cython.address(pg.counters[C_RECOMPRESSED]), 1)
        add64(cython.address(pg.counters[C_RECOMPRESSED_BYTES]), length - length_of(place))
    record_drop(pg, one.where, cython.cast(uint32_t, 1) << shift)


def pack_point(pg, page, place, length, header):
    """An owned page becomes a member of the pack at `place`, and what that costs it lives."""
    p: page_p = cython.address(pg.pages[page])
    s: segment_p = cython.address(pg.segments[segment_of(place)])
    addi(cython.address(s.live), cython.cast(int32_t, length))
    add64(cython.address(s.raw), cython.cast(int64_t, 1) << header.shift)
    p.where = pack(segment_of(place), offset_of(place), length)
    p.check = header.check


def pack_install(pg, group):
    """Put a pack into the log, and have the pages point at it that still have what it was made of; False: no room."""
    header: record_p = cython.cast(record_p, pg.dense_packs + group - 1)
    member: member_p = members_of(group_of(header))
    length: uint32_t
    state: uint32_t = 0
    n: uint32_t = 0
    i: cython.int
    one: dense_p
    place: uint64_t
    if is_tight(pg, HEADER + header.length + UNIT):
        return False
    place = record_append(pg, STREAM_DENSE, header, cython.cast(bytes_p, header) + HEADER)
    if place == 0:
        return False
    for i in range(pg.dense_count):
        one = cython.address(pg.dense_batch[i])
        if one.group != group:
            continue
        length = cython.cast(uint32_t, member[n].units) * UNIT
        if batch_claim(pg, one, member[n].page, cython.address(state)):
            pack_point(pg, member[n].page, place, length, header)
            pool_uncharge(pg, member[n].page, cython.cast(int64_t, length_of(one.where)) - length)
            if is_plain(one.where, cython.cast(uint32_t, 1) << header.shift):
                add64(cython.address(pg.staged), -cython.cast(int64_t, length_of(one.where)))
            store32(cython.address(pg.pages[member[n].page].state), state)
            batch_replaced(pg, one, member[n].page, header.shift, pack(segment_of(place), offset_of(place), length))
        n += 1
    record_drop(pg, place, cython.cast(uint32_t, 1) << header.shift)
    return True


# --- out of a pack -----------------------------------------------------------------------------------------------


def page_quicken(pg, ctx, page, state):
    """An owned page in a pack has been loaded, and its pack decompressed for it: of a segment from which much is loaded
    it gets a quick record of its own, so that the next load is one of a quick record.
    """
    where: uint64_t = pg.pages[page].where
    if (
        ctx.unpacked
        and (state & KIND) == RECORD_LOG
        and density(cython.address(pg.segments[segment_of(where)])) > FEW
        and pressure_of(pg) == PRESSURE_NONE
        and load64(cython.address(pg.pool_bytes)) <= pool_wanted(pg) // 8 * 7
        and page_alone(pg, ctx, page, part_of(ctx, ctx.pack_member))
    ):
        record_drop(pg, where, page_bytes(pg, page))
        if pressure_of(pg) == PRESSURE_CRITICAL:
            wake(cython.address(pg.writeback_event))  # since we have looked; who empties the pool may be done


def page_alone(pg, ctx, page, data):
    """Give an owned page that is in a pack a quick record of its own; its place.

    0: there is no room, or its area's quota does not allow it. `data`: not what somebody may be writing to.
    """
    p: page_p = cython.address(pg.pages[page])
    old: uint64_t = p.where
    more: int64_t
    place: uint64_t
    plain: cython.bint = not record_make(pg, ctx, page, data)
    if plain:
        record_plain(pg, ctx, page, data)
    more = (HEADER + ctx.header.length + UNIT - 1) // UNIT * UNIT
    if load64(cython.address(pg.pool_bytes)) + more > pg.pool_hard or more > pg.segment_bytes:
        return 0
    more -= length_of(old)
    if more > 0 and not pool_charge(pg, page, more):
        return 0
    place = record_append(pg, STREAM_POOL, cython.address(ctx.header), data if plain else ctx.packed)
    if (place == 0) == (more > 0):
        pool_uncharge(pg, page, more if place == 0 else -more)
    if place == 0:
        return 0
    p.where = place
    p.check = ctx.header.check
    if pg.segments[segment_of(place)].staged < (PLAIN if plain else HASTY):
        pg.segments[segment_of(place)].staged = PLAIN if plain else HASTY
    if is_plain(place, page_bytes(pg, page)):
        add64(cython.address(pg.staged), length_of(place))
    return place
