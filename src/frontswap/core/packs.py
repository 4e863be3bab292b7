"""Packs: several pages in one record, in front of swap areas; and the walk through the records of a segment.

zstd finds more in 32 KiB than in 4 KiB eight times. So what has been cold for long in front of swap areas is put
together (packing.py). Only there: their pool is always in RAM and nothing inherits it, so a pack meets no disk, no
crash and no fork; what leaves for its slot leaves page by page.

The record of a pack is nobody's. Behind its header there are a group_t, its members (whose page it was made for, and
what the record costs each of them) and one frame of all their bytes. A page that is in it has a place as others have,
with the pack's segment and offset and its own part of the length: so bytes that live, and what an area has, stay sums
over pages. A page that points elsewhere is no member any more, and what it took of the record is dead.

Races, and what prevents them:

* Who walks through a segment may find a member that is just being loaded, stored, freed, moved. It is claimed as the
  page of any record is: by its word, and with the place looked at again by who owns it. The list in the record says
  where to look, and nothing else.
* A record of another life of a segment, or of another pack, lies where a page's was: the checksum of the whole record
  is compared with that of the page (page_t.check, the same one for all members), and the page must be in its list.
* Of a list that is made anew, for members that live, the cleaner tells each of them as of any pack that it moves: who
  is not in it, or may not pay for it, keeps the old one.
* What a context has decompressed before is used again: records do not change, and the place with the serial of the
  segment is that of one record. Whoever asks owns a page that has it, so it is still there.
"""

import cython
from cython.cimports.frontswap.core.codec import (
    CODEC_PACK,
    CODEC_ZSTD,
    codec_checksum,
    codec_decompress,
)
from cython.cimports.frontswap.core.contexts import decoder_begin
from cython.cimports.frontswap.core.layout import (
    BUSY,
    HEADER,
    KIND,
    PACK_BYTES,
    PACK_MEMBERS,
    PACK_PARTS,
    PACK_ROOM,
    RECORD_LOG,
    UNIT,
    bytes_p,
    const_bytes_p,
    group_p,
    group_t,
    has_record,
    length_of,
    log_bytes,
    member_p,
    member_place,
    member_t,
    offset_of,
    pack,
    page_bytes,
    page_p,
    pager_p,
    record_p,
    segment_of,
    walk_p,
)
from cython.cimports.frontswap.core.record import LOAD_CHECKSUM, LOAD_CODEC, LOAD_HEADER, check_of
from cython.cimports.frontswap.core.uapi import cas32, load32, store32, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset

LIST = cython.declare(uint32_t, cython.sizeof(group_t) + PACK_MEMBERS * cython.sizeof(member_t))


def group_of(header):
    """Where the group of a pack's record is."""
    return cython.cast(group_p, cython.cast(bytes_p, header) + HEADER)


def members_of(group):
    """Where its members are."""
    return cython.cast(member_p, group + 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def list_bytes(group: group_p) -> uint32_t:
    """Bytes of a group with its members."""
    return cython.sizeof(group_t) + group.count * cython.sizeof(member_t)


def is_group(group, length):
    """True if a group's numbers agree with each other and with the bytes that its record has."""
    return (
        length >= cython.sizeof(group_t)
        and group.count <= PACK_MEMBERS
        and group.parts <= PACK_PARTS
        and group.shift >= 12
        and cython.cast(uint32_t, group.parts) << group.shift <= PACK_BYTES
        and group.whole < 32
        and cython.cast(uint32_t, 1) << group.whole <= PACK_BYTES
        and cython.cast(uint32_t, group.parts) << group.shift <= cython.cast(uint32_t, 1) << group.whole
        and cython.cast(uint64_t, list_bytes(group)) + group.length <= length
    )


# --- the walk ----------------------------------------------------------------------------------------------------


def walk_begin(walk, number, data, fill, at):
    """Walk through the records that a segment has in `data`, from the one at `at` on. Somebody keeps it there."""
    walk.number = number
    walk.data = data
    walk.fill = fill
    walk.at = at


def walk_next(pg, walk):
    """The next record; False: there is none."""
    header: record_p
    length: uint32_t
    if walk.at + HEADER > walk.fill:
        return False
    header = cython.cast(record_p, walk.data + walk.at)
    # Not what was written: its pages will find out when they load, and say so
    if header.length > pg.segment_bytes or header.shift > 21:
        return False
    length = log_bytes(header.length)
    if walk.at + length > walk.fill or header.page >= pg.max_pages:
        return False
    walk.header = header
    walk.group = cython.NULL
    if pg.areas != cython.NULL and header.codec & CODEC_PACK and is_group(group_of(header), header.length):
        walk.group = group_of(header)
    walk.start = walk.at
    walk.length = length
    walk.member = 0
    walk.at += length
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def member_next(walk: walk_p) -> cython.bint:
    """The next page that this record was made for, with the place that it has if it has it still."""
    member: member_p
    if walk.member >= (1 if walk.group == cython.NULL else walk.group.count):
        return False
    if walk.group == cython.NULL:
        walk.page = walk.header.page
        walk.where = pack(walk.number, walk.start, walk.length)
    else:
        member = members_of(walk.group) + walk.member
        walk.page = member.page
        walk.where = member_place(pack(walk.number, walk.start, 0), member)
    walk.member += 1
    return True


def walk_claim(pg, walk):
    """Own the next page that has this record; False: there is none left.

    Pages that somebody owns are skipped: their record stays, and so does the segment. Waiting for them could be waiting
    for the thread that waits for the room we are making.
    """
    p: page_p
    while member_next(walk):
        if walk.page >= pg.max_pages:
            continue
        p = cython.address(pg.pages[walk.page])
        walk.state = load32(cython.address(p.state))
        if has_record(walk.state) and p.where == walk.where and cas32(cython.address(p.state), walk.state, BUSY):
            # Looked at again as its owner: it may have gone through a whole life since.
            if p.where == walk.where:
                return True
            store32(cython.address(p.state), walk.state)
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def member_lives(pg: pager_p, walk: walk_p) -> cython.bint:
    """True if this member has the record, as far as can be seen without owning it."""
    return (
        walk.page < pg.max_pages
        and pg.pages[walk.page].where == walk.where
        and (load32(cython.address(pg.pages[walk.page].state)) & KIND) == RECORD_LOG
    )


def walk_live(pg, walk):
    """Bytes of this record that live, as far as can be seen without owning its pages."""
    live: uint32_t = 0
    while member_next(walk):
        if member_lives(pg, walk):
            live += length_of(walk.where)
    walk.member = 0
    return live


def pack_shrink(pg, ctx, walk):
    """A pack made anew in the context, with the list of those members that live, who bear it alike; NULL: it is
    damaged, or would cost each of them as much as a page as it is, or has twice as many pages as there are members.
    """
    old: group_p = walk.group
    header: record_p = cython.cast(record_p, ctx.pack)
    group: group_p = group_of(header)
    member: member_p = members_of(group)
    seen: uint32_t = 0
    n: uint32_t = 0
    i: uint32_t
    units: uint32_t
    ctx.pack_segment = 0
    if (
        HEADER + LIST + PACK_MEMBERS * UNIT + cython.cast(uint64_t, old.length) > PACK_ROOM
        or check_of(0, walk.header.length, walk.header.codec, cython.cast(bytes_p, old)) != walk.header.check
    ):
        return cython.NULL
    header[0] = walk.header[0]
    group[0] = old[0]
    while member_next(walk):
        if member_lives(pg, walk):
            member[n] = members_of(old)[walk.member - 1]
            i = cython.cast(uint32_t, 1) << (member[n].part & 31)
            member[n].sharing = seen & i != 0
            seen |= i
            n += 1
    walk.member = 0
    if n == 0 or 2 * n < old.parts:
        return cython.NULL
    group.count = n
    memcpy(cython.cast(bytes_p, group) + list_bytes(group), cython.cast(bytes_p, old) + list_bytes(old), old.length)
    header.length = list_bytes(group) + old.length
    units = log_bytes(header.length) // UNIT
    if units < n:
        # Zeros behind the frame: each place has a length.
        memset(cython.cast(bytes_p, group) + header.length, 0, n * UNIT - HEADER - header.length)
        header.length = n * UNIT - HEADER
        units = n
    if units // n + 1 >= (HEADER + (cython.cast(uint32_t, 1) << group.shift)) // UNIT:
        return cython.NULL
    for i in range(n):
        member[i].units = units // n + (i < units % n)
    header.check = check_of(0, header.length, header.codec, cython.cast(bytes_p, group))
    return header


# --- loads -------------------------------------------------------------------------------------------------------


def pack_open(pg, ctx, number, at, header, check):
    """Verify a pack and decompress it into the context, unless it is there already; 0 or LOAD_*.

    The caller owns a page that has it, or the segment.
    """
    serial: uint32_t = pg.segments[number].serial
    error: cython.int
    ctx.unpacked = False
    if ctx.pack_segment == number and ctx.pack_serial == serial and ctx.pack_at == at and ctx.pack_check == check:
        return 0
    ctx.pack_segment = 0
    if cython.cast(uint64_t, at) + HEADER + header.length > pg.segment_bytes:
        return LOAD_HEADER
    error = pack_decode(pg, ctx, header, check)
    if error:
        return error
    ctx.pack_segment = number
    ctx.pack_serial = serial
    ctx.pack_at = at
    ctx.unpacked = True
    return 0


def pack_decode(pg, ctx, header, check):
    """Verify a pack that is whole in memory and decompress it into the context; 0 or LOAD_*."""
    length: uint32_t = header.length
    codec: uint8_t = header.codec
    data: const_bytes_p = cython.cast(bytes_p, header) + HEADER
    group: group_p = cython.cast(group_p, ctx.pack + PACK_BYTES)
    if check_of(0, length, codec, data) != check:
        return LOAD_CHECKSUM
    memcpy(group, data, length if length < LIST else LIST)
    if not is_group(group, length):
        return LOAD_HEADER
    if codec & CODEC_ZSTD and not ctx.decodes:
        decoder_begin(pg, ctx)
    if (
        codec_decompress(
            codec & ~cython.cast(uint8_t, CODEC_PACK),
            ctx.state,
            data + list_bytes(group),
            group.length,
            ctx.scratch,
            ctx.pack,
            cython.cast(uint32_t, 1) << group.whole,
        )
        or codec_checksum(ctx.pack, cython.cast(uint32_t, 1) << group.whole, 0) != group.check
    ):
        return LOAD_CODEC
    ctx.pack_check = check
    return 0


def member_of(group, page):
    """Which member of a group a page is, -1: none."""
    i: cython.int
    for i in range(group.count):
        if members_of(group)[i].page == page:
            return i
    return -1


def member_is(group, i, where, size):
    """True for a member, or -1, with that place, whose page has so many bytes."""
    return (
        i >= 0
        and cython.cast(uint32_t, members_of(group)[i].units) * UNIT == length_of(where)
        and cython.cast(uint32_t, 1) << group.shift == size
        and members_of(group)[i].part < group.parts
    )


def part_of(ctx, member):
    """The bytes of a member of the pack that has been opened last."""
    group: group_p = cython.cast(group_p, ctx.pack + PACK_BYTES)
    return ctx.pack + (cython.cast(uint32_t, members_of(group)[member].part) << group.shift)


def is_part(ctx, member, page):
    """True if the pack that has been opened last has this page as this member. Its record in RAM may say so, and be
    wrong: it may have been damaged since it was verified.
    """
    group: group_p = cython.cast(group_p, ctx.pack + PACK_BYTES)
    return member < group.count and members_of(group)[member].page == page


def pack_load(pg, ctx, page, header, where):
    """record_load() of a page that is in a pack."""
    group: group_p = cython.cast(group_p, ctx.pack + PACK_BYTES)
    size: uint32_t = page_bytes(pg, page)
    i: cython.int
    error: cython.int = pack_open(pg, ctx, segment_of(where), offset_of(where), header, pg.pages[page].check)
    if error:
        return error
    i = member_of(group, page)
    if not member_is(group, i, where, size):
        return LOAD_HEADER
    ctx.pack_member = i
    memcpy(ctx.into, part_of(ctx, i), size)
    return 0
