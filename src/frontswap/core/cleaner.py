"""The cleaner: wins dead space back by moving the live records of the emptiest segment elsewhere.

Source: "Log-structured Memory for DRAM-based Storage", Rumble et al., FAST '14. What a segment is, and the
races of moving one, stand in segments.
"""

import cython
from cython.cimports.frontswap.core.balance import note_move
from cython.cimports.frontswap.core.layout import (
    C_CLEANED_BYTES,
    C_SLOT_ERRORS,
    HEADER,
    IO_ALIGN,
    SEG_DISK,
    SEG_SEALED,
    STREAM_CLEAN,
    STREAM_DENSE,
    STREAM_POOL,
    UNIT,
    bytes_p,
    length_of,
    log_bytes,
    page_p,
    record_p,
    segment_of,
    segment_p,
    walk_t,
)
from cython.cimports.frontswap.core.leases import FILE_SHIFT
from cython.cimports.frontswap.core.packing import pack_point, page_alone
from cython.cimports.frontswap.core.packs import (
    group_of,
    is_part,
    member_of,
    members_of,
    pack_open,
    pack_shrink,
    part_of,
    walk_begin,
    walk_claim,
    walk_live,
    walk_next,
)
from cython.cimports.frontswap.core.record import room_ahead
from cython.cimports.frontswap.core.segments import move_begin, move_end, record_append, record_drop
from cython.cimports.frontswap.core.shares import pool_charge, pool_uncharge
from cython.cimports.frontswap.core.swapfile import slot_read
from cython.cimports.frontswap.core.uapi import (
    add64,
    addi,
    backoff,
    int32_t,
    int64_t,
    loadi,
    lock,
    store32,
    uint32_t,
    uint64_t,
    unlock,
)

TRIES = cython.declare(cython.int, 8)  # segments
REST = cython.declare(uint32_t, 8)  # segments that are sealed before one that could not be emptied is tried again


def records_move(pg, ctx, number, data, stream):
    """Append the live records of a segment in SEG_MOVING to `stream`; the bytes moved. `ctx`: for packs."""
    s: segment_p = cython.address(pg.segments[number])
    length: int64_t
    moved: int64_t = 0
    walk: walk_t
    p: page_p
    place: uint64_t
    walk_begin(cython.address(walk), number, data, s.fill, 0)
    while walk_next(pg, cython.address(walk)):
        if walk.group != cython.NULL:
            length = pack_move(pg, ctx, cython.address(walk), stream)
            if length < 0:
                return moved
            moved += length
            continue
        if not walk_claim(pg, cython.address(walk)):
            continue
        p = cython.address(pg.pages[walk.page])
        if s.staged == 0 and stream == STREAM_POOL:
            walk.header.settled = 1  # looked at, and goes among those that have not. A hint, under no checksum
        place = record_append(pg, stream, walk.header, cython.cast(bytes_p, walk.header) + HEADER)
        if place == 0:
            store32(cython.address(p.state), walk.state)
            return moved
        p.where = place
        store32(cython.address(p.state), walk.state)
        if s.staged > pg.segments[segment_of(place)].staged:
            pg.segments[segment_of(place)].staged = s.staged
        record_left(pg, cython.address(walk), place, stream)
        moved += walk.length
        if stream == STREAM_POOL:
            room_ahead(pg)
    add64(cython.address(pg.counters[C_CLEANED_BYTES]), moved)
    return moved


def record_left(pg, walk, place, stream):
    """A page that was claimed has its record at `place` now: the segment that is being moved has it no more."""
    s: segment_p = cython.address(pg.segments[walk.number])
    if stream == STREAM_DENSE:
        note_move(pg, s, segment_of(place), walk.header.shift)
    add64(cython.address(s.raw), -(cython.cast(int64_t, 1) << walk.header.shift))
    addi(cython.address(s.live), -cython.cast(int32_t, length_of(walk.where)))


def pack_move(pg, ctx, walk, stream):
    """records_move() of a pack; the bytes moved, -1: there is no room.

    The whole record, while half of its bytes live: the copy is held, as in pack_install(), until each of its members
    has been told. Else, where members share their bytes, a record made anew for those that live, who bear it alone
    then; or they get records of their own. If there is no room for those, or the pack is damaged, they stay where they
    are. (Moved as it is, it would be among the emptiest again: the cleaner would go on for ever. So would it by the
    number of members: those that live may be the short ones.)
    """
    live: uint32_t = walk_live(pg, walk)
    whole: cython.bint = 2 * live >= walk.length
    header: record_p = walk.header
    i: cython.int
    more: int64_t
    place: uint64_t = 0
    alone: uint64_t
    moved: int64_t = 0
    p: page_p
    if live == 0:
        return 0
    if not whole and walk.group.count > walk.group.parts:
        header = pack_shrink(pg, ctx, walk)
        whole = header != cython.NULL
    if not whole and pack_open(pg, ctx, walk.number, walk.start, walk.header, walk.header.check) != 0:
        return 0
    while walk_claim(pg, walk):
        p = cython.address(pg.pages[walk.page])
        if p.check != walk.header.check:
            store32(cython.address(p.state), walk.state)  # damaged, be it only there: it stays
            break
        if not whole:
            alone = member_alone(pg, ctx, walk) if is_part(ctx, walk.member - 1, walk.page) else 0
            if alone == 0:
                store32(cython.address(p.state), walk.state)
                break
            record_left(pg, walk, alone, STREAM_POOL)
            moved += length_of(alone)
            continue
        i = walk.member - 1 if header == walk.header else member_of(group_of(header), walk.page)
        more = cython.cast(int64_t, members_of(group_of(header))[max(i, 0)].units) * UNIT - length_of(walk.where)
        if i < 0 or (more > 0 and not pool_charge(pg, walk.page, more)):
            store32(cython.address(p.state), walk.state)
            continue
        if place == 0:
            place = record_append(pg, stream, header, cython.cast(bytes_p, header) + HEADER)
            if place == 0:
                if more > 0:
                    pool_uncharge(pg, walk.page, more)
                store32(cython.address(p.state), walk.state)
                return -1
            moved += log_bytes(header.length)
        pack_point(pg, walk.page, place, members_of(group_of(header)) + i, header)
        if more < 0:
            pool_uncharge(pg, walk.page, -more)
        store32(cython.address(p.state), walk.state)
        record_left(pg, walk, place, stream)
    if place:
        record_drop(pg, place, cython.cast(uint32_t, 1) << walk.header.shift)
    return moved


def member_alone(pg, ctx, walk):
    """Give a page that was claimed a quick record of its own, from the pack that is open, and let go of it; its place,
    0: there is no room, or its area's quota does not allow it, and it is still ours.
    """
    place: uint64_t = page_alone(pg, ctx, walk.page, part_of(ctx, walk.member - 1))
    if place:
        store32(cython.address(pg.pages[walk.page].state), walk.state)
    return place


def is_resting(pg, s):
    """True for a segment that could not be emptied lately: it is not tried again yet."""
    return s.stays != 0 and pg.seals + 1 - s.stays < REST


def emptiest(pg, state):
    """The segment with the least live part in `state`, taken for moving, or 0. The caller holds log_lock."""
    best: uint32_t = 0
    i: uint32_t
    part: uint64_t
    least: uint64_t = 15 << 16  # what is 15/16 alive is not worth moving
    half: uint64_t = 1 << 19
    s: segment_p
    for i in range(1, pg.next_segment):
        s = cython.address(pg.segments[i])
        if s.state != state or s.unreadable or (state == SEG_SEALED and s.stream != STREAM_POOL):
            continue
        if state == SEG_SEALED and is_resting(pg, s) and (pg.areas != cython.NULL or pg.policy.of != cython.NULL):
            continue
        if state == SEG_DISK and (s.slot >> FILE_SHIFT) != pg.own_file:
            continue  # moving them would free none of our slots
        part = (cython.cast(uint64_t, loadi(cython.address(s.live))) << 20) // (
            s.fill if state == SEG_SEALED else pg.segment_bytes
        )
        # Packs whose members live by half are moved as they are.
        if part < least and (part < half or not s.dense or pg.areas == cython.NULL):
            least = part
            best = i
    if best:
        move_begin(pg, best)
    return best


def clean_ram(pg, ctx):
    """Move the live records of the emptiest pool segment together; the bytes won (0: nothing to win).

    Where a policy names pages of a Memory: of the emptiest that can be emptied. It may name the newest, which are in
    the hands of who waits for us; the other pages of their segment have left, and it is the emptiest. And one with a
    record that is damaged, or of a page that is lost, does not leave as a whole there.
    """
    number: uint32_t
    got: int64_t = 0
    turn: cython.int
    named: cython.bint = pg.areas == cython.NULL and pg.policy.of != cython.NULL
    for turn in range(TRIES if named else 1):
        lock(cython.address(pg.log_lock))
        number = emptiest(pg, SEG_SEALED)
        if number == 0 and named:
            rested(pg)  # nobody else has them be tried again: where nothing is sealed, none gets older
        unlock(cython.address(pg.log_lock))
        if number == 0:
            break
        got = segment_clean(pg, ctx, number)
        if got > 0:
            break
    return got


def rested(pg):
    """Have those that could not be emptied be tried again. The caller holds log_lock."""
    i: uint32_t
    for i in range(1, pg.next_segment):
        pg.segments[i].stays = 0


def segment_clean(pg, ctx, number):
    """Move the live records of a pool segment in SEG_MOVING to an open one; the bytes won.

    Those of a dense segment stay among the coldest.
    """
    s: segment_p = cython.address(pg.segments[number])
    fill: uint32_t = s.fill
    moved: int64_t
    turn: cython.int = 0
    while loadi(cython.address(s.writers)) != 0:
        backoff(turn)
        turn += 1
    moved = records_move(pg, ctx, number, s.ram, STREAM_DENSE if s.dense else STREAM_POOL)
    if loadi(cython.address(s.live)) == 0:
        move_end(pg, number, SEG_SEALED)
        return fill - moved
    s.stays = pg.seals + 1
    move_end(pg, number, SEG_SEALED)
    return 0


def clean_disk(pg):
    """Free the emptiest slot of the swap file; 1, 0 if that did not free it, -1 if there is none.

    One at a time (pg.cleaning): who calls it owns clean_buffer and STREAM_CLEAN.
    """
    number: uint32_t
    s: segment_p
    error: cython.int
    lock(cython.address(pg.log_lock))
    number = emptiest(pg, SEG_DISK)
    unlock(cython.address(pg.log_lock))
    if number == 0:
        return -1
    s = cython.address(pg.segments[number])
    error = slot_read(pg, s.slot, 0, pg.clean_buffer, (s.fill + IO_ALIGN - 1) & ~cython.cast(uint32_t, IO_ALIGN - 1))
    if error:
        add64(cython.address(pg.counters[C_SLOT_ERRORS]), 1)
        s.unreadable = 1
        move_end(pg, number, SEG_DISK)
        return 0
    records_move(pg, cython.NULL, number, pg.clean_buffer, STREAM_CLEAN)
    return move_end(pg, number, SEG_DISK)
