"""Packing: how the records of a batch of recompress.py are made anew, several pages as one pack (packs.py), and what
takes the place of a pack later.

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

With zcache:dedup=on members with the same bytes are one part of a pack; the bytes are compared, the hash is a hint.
"""

import cython
from cython.cimports.frontswap.core.balance import FEW, density, note_move, pool_wanted
from cython.cimports.frontswap.core.choice import codec_choice, codec_compress
from cython.cimports.frontswap.core.codec import (
    CODEC_KIND,
    CODEC_LZ4,
    CODEC_PACK,
    CODEC_RAW,
    CODEC_SPARSE,
    CODEC_ZSTD,
    codec_checksum,
    codec_decompress,
    codec_encode,
)
from cython.cimports.frontswap.core.dense import densify_record, frame
from cython.cimports.frontswap.core.layout import (
    BUSY,
    C_PACKED_LATER,
    C_RECOMPRESSED,
    C_RECOMPRESSED_BYTES,
    C_SHARING,
    HASTY,
    HEADER,
    KIND,
    PACK_BYTES,
    PACK_MEMBERS,
    PACK_PAGE,
    PACK_PARTS,
    PLAIN,
    PRESSURE_CRITICAL,
    PRESSURE_NONE,
    RECORD_LOG,
    STREAM_DENSE,
    STREAM_POOL,
    UNIT,
    area_p,
    bytes_p,
    context_p,
    dense_p,
    group_p,
    group_t,
    has_record,
    is_plain,
    is_sharing,
    length_of,
    log_bytes,
    member_p,
    member_place,
    member_t,
    page_bytes,
    page_p,
    pressure_of,
    record_p,
    segment_of,
    segment_p,
)
from cython.cimports.frontswap.core.packs import (
    group_of,
    member_is,
    member_of,
    members_of,
    pack_decode,
    part_of,
)
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
from cython.cimports.libc.string import memcmp, memcpy, memset

GAIN = cython.declare(uint32_t, 20)  # what does not get shorter by this part of it stays
ALIKE = cython.declare(uint32_t, 8)  # records that differ by less than this part of them
LIST = cython.declare(uint32_t, cython.sizeof(group_t) + PACK_MEMBERS * cython.sizeof(member_t))


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


def batch_add(pg, page, where, serial, at):
    """Add an owned page's record to the batch: at `where` of a segment in that life, its copy at `at` of `dense_io`."""
    one: dense_p = cython.address(pg.dense_batch[pg.dense_count])
    one.where = where
    one.page = page
    one.serial = serial
    one.at = at
    one.check = pg.pages[page].check
    one.block = pg.pages[page].block
    one.length = one.group = one.hash = one.head = 0
    one.later = False
    pg.dense_count += 1


def quick_pack(pg, block, data, page, made):
    """Pack a page into `dense_out` by the quick codec that suits it best; the record's length, or 0.

    Neighbours are often alike: the one that was best for the last page is taken if the record is about as long; else
    all are compared.
    """
    choice: cython.pointer(codec_choice) = cython.address(pg.blocks[block].choice)
    own: cython.pointer(codec_choice) = cython.address(pg.dense_choice)
    most: uint32_t = page - page // 16
    length: uint32_t = 0
    best: uint32_t = pg.dense_length
    if own.candidates != choice.candidates:
        best = 0
    if best:
        own.pages = 3  # it takes no samples
        own.misses = 0
        length = codec_compress(own, pg.dense_state, data, page, pg.dense_tmp, pg.dense_out, most, made)
    if best == 0 or length > best + best // ALIKE or length + best // ALIKE < best:
        own[0] = choice[0]
        own.pages = own.misses = 0
        memset(own.size, 0, cython.sizeof(own.size))
        memset(own.won, 0, cython.sizeof(own.won))
        length = codec_compress(own, pg.dense_state, data, page, pg.dense_tmp, pg.dense_out, most, made)
    pg.dense_length = length
    return length


def settle_record(pg, one, header, made):
    """record_pack() of a record that was packed in haste."""
    page: uint32_t = cython.cast(uint32_t, 1) << header.shift
    length: uint32_t
    if codec_decompress(
        header.codec,
        pg.dense_state,
        cython.cast(bytes_p, header) + HEADER,
        header.length,
        pg.dense_tmp,
        pg.dense_plain,
        page,
    ):
        return 0
    length = quick_pack(pg, one.block, pg.dense_plain, page, made)
    return length if length <= header.length - header.length // GAIN else 0


def record_pack(pg, one, header, encoder, made):
    """A record made anew in `dense_out`: what is settled by a quick codec, others by zstd; its length, or 0."""
    data: bytes_p = cython.cast(bytes_p, header) + HEADER
    page: uint32_t = cython.cast(uint32_t, 1) << header.shift
    length: uint32_t
    area: area_p
    if header.codec == CODEC_RAW:
        if pg.areas == cython.NULL:
            return 0
        length = quick_pack(pg, one.block, data, page, made)
        # Not in the choice, by which pages are refused: the area may be another one by now.
        area = cython.address(pg.areas[one.block])
        area.misses = 0 if length else area.misses + 1
        return length
    if pg.dense_staged:
        return settle_record(pg, one, header, made)
    return densify_record(
        header.codec,
        encoder,
        data,
        header.length,
        pg.dense_tmp,
        pg.dense_out,
        header.length - header.length // GAIN,
        page,
        made,
    )


def page_plain(pg, one, dst):
    """Decompress the page of a record of a batch; False: it is damaged, or too large for a pack."""
    header: record_p = cython.cast(record_p, pg.dense_io + one.at)
    data: bytes_p = cython.cast(bytes_p, header) + HEADER
    size: uint32_t = cython.cast(uint32_t, 1) << header.shift
    if size > PACK_PAGE:
        return False
    if header.codec & CODEC_PACK:
        return part_plain(pg, one, header, size, dst)
    if not is_sound(one, header):
        return False
    if header.codec == CODEC_RAW:
        if header.length != size:
            return False
        memcpy(dst, data, size)
        return True
    return codec_decompress(header.codec, pg.dense_state, data, header.length, pg.dense_tmp, dst, size) == 0


def part_plain(pg, one, header, size, dst):
    """page_plain() of a page that is in a pack. Those of one pack follow each other, mostly."""
    ctx: context_p = cython.address(pg.dense_context)
    group: group_p = cython.cast(group_p, ctx.pack + PACK_BYTES)
    i: cython.int
    if pg.dense_opened != one.at + 1 or ctx.pack_check != one.check:
        pg.dense_opened = 0
        if pack_decode(pg, ctx, header, one.check):
            return False
        pg.dense_opened = one.at + 1
    i = member_of(group, one.page)
    if not member_is(group, i, one.where, size):
        return False
    memcpy(dst, part_of(ctx, i), size)
    return True


def packs_make(pg, encoder):
    """Make packs of a batch, in `dense_packs`; dense_t.group says which one a record is in."""
    members: uint32_t[PACK_MEMBERS]
    parts: uint8_t[PACK_MEMBERS]
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
        n = pack_gather(pg, first, cython.address(tried), members, parts)
        if n < 2:
            continue
        length = pack_make(pg, encoder, members, parts, n, cython.cast(record_p, pg.dense_packs + at))
        if length == 0:
            continue
        for i in range(n):
            pg.dense_batch[members[i]].group = at + 1
        at += length


def quick(codec):
    """The quick codec that a record, or a pack, has been made of."""
    return codec & ~cython.cast(uint8_t, CODEC_PACK | CODEC_ZSTD)


def pack_gather(pg, first, tried, members, parts):
    """Decompress the page of record `first`, and those of further ones like it, into `dense_plain`; how many members
    that makes. Pages with the bytes of another one are the same part, whatever their codec.
    """
    header: record_p = cython.cast(record_p, pg.dense_io + pg.dense_batch[first].at)
    codec: uint8_t = quick(header.codec)
    shift: uint32_t = header.shift
    size: uint32_t = cython.cast(uint32_t, 1) << shift
    hash: uint32_t[PACK_PARTS]
    one: dense_p
    i: uint32_t
    n: uint32_t = 0
    count: uint32_t = 0
    part: uint32_t
    fits: cython.bint
    for i in range(first, cython.cast(uint32_t, pg.dense_count)):
        one = cython.address(pg.dense_batch[i])
        header = cython.cast(record_p, pg.dense_io + one.at)
        if tried[0] >> i & 1 or one.later or header.shift != shift:
            continue
        fits = (
            count < PACK_PARTS
            and (count + 1) * size <= PACK_BYTES
            and quick(header.codec) == codec
            and (codec != CODEC_RAW or pg.dense_alike != 0)
        )
        part = 0
        while part < count and (one.hash == 0 or hash[part] != one.hash):
            part += 1
        if part == count and not fits:
            continue
        tried[0] |= cython.cast(uint64_t, 1) << i
        if not page_plain(pg, one, pg.dense_out):
            continue
        if part < count and memcmp(pg.dense_plain + part * size, pg.dense_out, size) != 0:
            part = count
        if part == count:
            if not fits:
                continue
            memcpy(pg.dense_plain + count * size, pg.dense_out, size)
            hash[count] = one.hash
            count += 1
        members[n] = i
        parts[n] = cython.cast(uint8_t, part)
        n += 1
    return n


def pack_make(pg, encoder, members, parts, n, header):
    """Make the record of a pack of the pages in `dense_plain`; what it takes in the log, 0: it is not worth it."""
    one: record_p = cython.cast(record_p, pg.dense_io + pg.dense_batch[members[0]].at)
    group: group_p = group_of(header)
    list: uint32_t = cython.sizeof(group_t) + n * cython.sizeof(member_t)
    count: uint32_t = 0
    bytes: uint32_t
    size: uint32_t = cython.cast(uint32_t, 1) << one.shift
    before: uint32_t = 0
    length: uint32_t
    i: uint32_t
    made: uint8_t = 0
    for i in range(n):
        count = max(count, cython.cast(uint32_t, parts[i]) + 1)
    bytes = count << one.shift
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
    length = pack_frame(
        pg, encoder, quick(one.codec), size, cython.cast(bytes_p, group) + list, length, cython.address(made)
    )
    if length == 0:
        return 0
    group.check = codec_checksum(pg.dense_plain, size, 0)
    group.length = length
    group.count = cython.cast(uint16_t, n)
    group.parts = cython.cast(uint8_t, count)
    group.shift = one.shift
    header.page = 0
    header.length = list + length
    header.codec = made | CODEC_PACK
    header.shift = one.shift
    header.settled = 1
    pack_share(pg, members, parts, n, before, header)
    header.check = check_of(0, header.length, header.codec, cython.cast(bytes_p, group))
    return log_bytes(header.length)


def pack_frame(pg, encoder, codec, size, dst, most, made):
    """Compress `size` bytes of `dense_plain`, behind the transform of a quick codec; the length, or 0.

    Pages that are as they are, as noise is, stay so if they do not get smaller: what is won is their copies.
    """
    kind: uint8_t = codec & CODEC_KIND
    length: uint32_t
    most = min(most, size)  # what is longer could not be decompressed
    if kind == CODEC_RAW:
        length = pack_frame(pg, encoder, CODEC_LZ4, size, dst, most, made)
        if length == 0 and most == size:
            made[0] = CODEC_RAW
            memcpy(dst, pg.dense_plain, size)
            length = size
        return length
    if kind == CODEC_LZ4 or kind == CODEC_SPARSE:  # of which each page may have another common element
        made[0] = CODEC_LZ4 | CODEC_ZSTD
        return frame(encoder, size, pg.dense_plain, size, dst, most)
    length = codec_encode(codec, pg.dense_state, pg.dense_plain, size, pg.dense_tmp, pg.dense_out, size)
    if length == 0 and pg.dense_alike:
        return pack_frame(pg, encoder, CODEC_LZ4, size, dst, most, made)
    if length == 0:
        return 0
    return densify_record(codec, encoder, pg.dense_out, length, pg.dense_tmp, dst, most, size, made)


def pack_share(pg, members, parts, n, before, header):
    """Share what a pack takes out among its members, by what their records take, which is `before` together."""
    member: member_p = members_of(group_of(header))
    left: int64_t = log_bytes(header.length) // UNIT
    total: int64_t = left
    old: int64_t
    seen: uint32_t = 0
    i: uint32_t
    for i in range(n):
        old = length_of(pg.dense_batch[members[i]].where) // UNIT
        member[i].page = pg.dense_batch[members[i]].page
        member[i].part = parts[i]
        member[i].sharing = seen >> parts[i] & 1
        seen |= cython.cast(uint32_t, 1) << parts[i]
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


def batch_claim(pg, one, state):
    """Own a page that still has the record which was copied; False: it has not, or somebody owns it."""
    p: page_p = cython.address(pg.pages[one.page])
    word: uint32_t = load32(cython.address(p.state))
    if not has_record(word) or p.where != one.where or not cas32(cython.address(p.state), word, BUSY):
        return False
    # Looked at again as its owner, and the segment with it: what has a record that lives is not freed. What has gone to
    # the disk meanwhile stays there.
    if (
        p.where != one.where
        or p.check != one.check
        or pg.segments[segment_of(one.where)].serial != one.serial
        or record_on_disk(pg, one.where)
    ):
        store32(cython.address(p.state), word)
        return False
    state[0] = word
    return True


def batch_replaced(pg, one, shift, place):
    """A page has got another record at `place`, and is its own again: it may be anything by now. Drop the old one."""
    s: segment_p = cython.address(pg.segments[segment_of(one.where)])
    length: uint32_t = length_of(one.where)
    if not pg.dense_staged:
        note_move(pg, s, segment_of(place), shift)
    if not pg.dense_alike:
        pg.dense_left += length
    if is_plain(one.where, cython.cast(uint32_t, 1) << shift):
        add64(cython.address(pg.counters[C_PACKED_LATER]), 1)
    else:
        add64(cython.address(pg.counters[C_RECOMPRESSED]), 1)
        add64(cython.address(pg.counters[C_RECOMPRESSED_BYTES]), length - length_of(place))
    record_drop(pg, one.where, cython.cast(uint32_t, 1) << shift)


def pack_point(pg, page, place, member, header):
    """An owned page becomes a member of the pack at `place`, and what that costs it lives; the place that it has."""
    p: page_p = cython.address(pg.pages[page])
    s: segment_p = cython.address(pg.segments[segment_of(place)])
    where: uint64_t = member_place(place, member)
    addi(cython.address(s.live), cython.cast(int32_t, length_of(where)))
    add64(cython.address(s.raw), cython.cast(int64_t, 1) << header.shift)
    add64(cython.address(pg.counters[C_SHARING]), is_sharing(where) - is_sharing(p.where))
    p.where = where
    p.check = header.check
    return where


def pack_install(pg, group):
    """Put a pack into the log, and have the pages point at it that still have what it was made of; False: no room."""
    header: record_p = cython.cast(record_p, pg.dense_packs + group - 1)
    member: member_p = members_of(group_of(header))
    state: uint32_t = 0
    n: uint32_t = 0
    i: cython.int
    one: dense_p
    place: uint64_t
    where: uint64_t
    if is_tight(pg, HEADER + header.length + UNIT):
        return False
    place = record_append(pg, STREAM_DENSE, header, cython.cast(bytes_p, header) + HEADER)
    if place == 0:
        return False
    for i in range(pg.dense_count):
        one = cython.address(pg.dense_batch[i])
        if one.group != group:
            continue
        if batch_claim(pg, one, cython.address(state)):
            where = pack_point(pg, one.page, place, member + n, header)
            pool_uncharge(pg, one.page, cython.cast(int64_t, length_of(one.where)) - length_of(where))
            if is_plain(one.where, cython.cast(uint32_t, 1) << header.shift):
                add64(cython.address(pg.staged), -cython.cast(int64_t, length_of(one.where)))
            store32(cython.address(pg.pages[one.page].state), state)
            batch_replaced(pg, one, header.shift, where)
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
    more = log_bytes(ctx.header.length)
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
    add64(cython.address(pg.counters[C_SHARING]), -is_sharing(old))
    p.where = place
    p.check = ctx.header.check
    if pg.segments[segment_of(place)].staged < (PLAIN if plain else HASTY):
        pg.segments[segment_of(place)].staged = PLAIN if plain else HASTY
    if is_plain(place, page_bytes(pg, page)):
        add64(cython.address(pg.staged), length_of(place))
    return place
