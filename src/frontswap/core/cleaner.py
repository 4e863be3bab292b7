"""The cleaner: wins dead space back by moving the live records of the emptiest segment elsewhere.

Source: "Log-structured Memory for DRAM-based Storage", Rumble et al., FAST '14. What a segment is, and the
races of moving one, stand in segments.
"""

import cython
from cython.cimports.frontswap.core.balance import note_move
from cython.cimports.frontswap.core.layout import (
    BUSY,
    C_CLEANED_BYTES,
    C_SLOT_ERRORS,
    CLEAN,
    HEADER,
    IO_ALIGN,
    KIND,
    OUT,
    RECORD_LOG,
    SEG_DISK,
    SEG_SEALED,
    STATE,
    STREAM_CLEAN,
    STREAM_DENSE,
    STREAM_POOL,
    UNIT,
    bytes_p,
    length_of,
    pack,
    page_p,
    record_p,
    segment_of,
    segment_p,
)
from cython.cimports.frontswap.core.leases import FILE_SHIFT
from cython.cimports.frontswap.core.record import room_ahead
from cython.cimports.frontswap.core.segments import move_begin, move_end, record_append
from cython.cimports.frontswap.core.swapfile import slot_read
from cython.cimports.frontswap.core.uapi import (
    add64,
    addi,
    backoff,
    cas32,
    int32_t,
    int64_t,
    load32,
    loadi,
    lock,
    store32,
    uint32_t,
    uint64_t,
    unlock,
)


def record_claim(pg, number, data, fill, at, state):
    """Own the page of the next live record in `data`, from `*at` on; its header, or NULL at the end.

    `*at` is where the record after it begins, `*state` the word that its page had. Pages that somebody owns are
    skipped: their record stays, and so does the segment. Waiting for them could be waiting for the thread that
    waits for the room we are making.
    """
    header: record_p
    length: uint32_t
    p: page_p
    where: uint64_t
    while at[0] + HEADER <= fill:
        header = cython.cast(record_p, data + at[0])
        if header.length > pg.segment_bytes or header.shift > 21:
            break  # not what was written: its pages will find out when they load, and say so
        length = (HEADER + header.length + UNIT - 1) // UNIT * UNIT
        if at[0] + length > fill or header.page >= pg.max_pages:
            break
        p = cython.address(pg.pages[header.page])
        where = pack(number, at[0], length)
        at[0] += length
        state[0] = load32(cython.address(p.state))
        if (
            (state[0] & KIND) == RECORD_LOG
            and ((state[0] & STATE) == OUT or (state[0] & STATE) == CLEAN)
            and p.where == where
            and cas32(cython.address(p.state), state[0], BUSY)
        ):
            # Looked at again as its owner: it may have gone through a whole life since.
            if p.where == where:
                return header
            store32(cython.address(p.state), state[0])
    return cython.NULL


def records_move(pg, number, data, stream):
    """Append the live records of a segment in SEG_MOVING to `stream`; the bytes moved."""
    s: segment_p = cython.address(pg.segments[number])
    at: uint32_t = 0
    length: uint32_t
    state: uint32_t = 0
    moved: int64_t = 0
    header: record_p
    p: page_p
    place: uint64_t
    while True:
        header = record_claim(pg, number, data, s.fill, cython.address(at), cython.address(state))
        if header == cython.NULL:
            break
        p = cython.address(pg.pages[header.page])
        length = length_of(p.where)
        if s.staged == 0 and stream == STREAM_POOL:
            header.settled = 1  # it has been looked at, and goes among those that have not. A hint, under no checksum
        place = record_append(pg, stream, header, cython.cast(bytes_p, header) + HEADER)
        if place == 0:
            store32(cython.address(p.state), state)
            return moved
        p.where = place
        store32(cython.address(p.state), state)
        if s.staged > pg.segments[segment_of(place)].staged:
            pg.segments[segment_of(place)].staged = s.staged
        if stream == STREAM_DENSE:
            note_move(pg, s, segment_of(place), header.shift)
        add64(cython.address(s.raw), -(cython.cast(int64_t, 1) << header.shift))
        addi(cython.address(s.live), -cython.cast(int32_t, length))
        moved += length
        if stream == STREAM_POOL:
            room_ahead(pg)
    add64(cython.address(pg.counters[C_CLEANED_BYTES]), moved)
    return moved


def emptiest(pg, state):
    """The segment with the least live part in `state`, taken for moving, or 0. The caller holds log_lock."""
    best: uint32_t = 0
    i: uint32_t
    part: uint64_t
    least: uint64_t = 15 << 16  # what is 15/16 alive is not worth moving
    s: segment_p
    for i in range(1, pg.next_segment):
        s = cython.address(pg.segments[i])
        if s.state != state or s.unreadable or (state == SEG_SEALED and s.stream != STREAM_POOL):
            continue
        if state == SEG_DISK and (s.slot >> FILE_SHIFT) != pg.own_file:
            continue  # moving them would free none of our slots
        part = (cython.cast(uint64_t, loadi(cython.address(s.live))) << 20) // (
            s.fill if state == SEG_SEALED else pg.segment_bytes
        )
        if part < least:
            least = part
            best = i
    if best:
        move_begin(pg, best)
    return best


def clean_ram(pg):
    """Move the live records of the emptiest pool segment together; the bytes won (0: nothing to win)."""
    number: uint32_t
    lock(cython.address(pg.log_lock))
    number = emptiest(pg, SEG_SEALED)
    unlock(cython.address(pg.log_lock))
    return segment_clean(pg, number) if number else 0


def segment_clean(pg, number):
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
    moved = records_move(pg, number, s.ram, STREAM_DENSE if s.dense else STREAM_POOL)
    if loadi(cython.address(s.live)) == 0:
        move_end(pg, number, SEG_SEALED)
        return fill - moved
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
    records_move(pg, number, pg.clean_buffer, STREAM_CLEAN)
    return move_end(pg, number, SEG_DISK)
