"""The record log: compressed pages in segments, in RAM or in the swap file.

A record is appended to the open segment of its stream and never changed. A page names it by
(segment, offset), and the segment knows where it is; so a whole segment moves to the swap file in one
write, and no page has to be told. Dead space is won back by the cleaner. No malloc.

What may enter: where records lie. What may not: which page leaves, what is refused (zcache), how
bytes become a record (codec).

Races, and what prevents them:

* A load copies out of RAM while the segment's RAM is taken away: the load counts itself in `readers`
  first and looks at `ram` then; the writer clears `ram` first and waits for `readers` then.
* A segment becomes empty while it is being written: nobody frees a segment in SEG_MOVING; who moves
  it looks at `live` again when it is done, under log_lock, as everybody who takes `live` to 0 does.
* A segment is written while a store still copies into it: sealing keeps stores out, and the writer
  waits for `writers`.
"""

import cython
from cython.cimports.frontswap.core.ages import age_append, age_insert, age_prepend, age_remove
from cython.cimports.frontswap.core.balance import coldest, note_seal
from cython.cimports.frontswap.core.budget import budget_spend
from cython.cimports.frontswap.core.contexts import populate
from cython.cimports.frontswap.core.layout import (
    C_SLOT_ERRORS,
    C_WRITTEN_BACK_BYTES,
    HEADER,
    IO_ALIGN,
    SEG_DISK,
    SEG_FREE,
    SEG_MOVING,
    SEG_OPEN,
    SEG_SEALED,
    SLOT_STREAM_RAM,
    STREAM_CLEAN,
    STREAM_DENSE,
    STREAM_POOL,
    STREAM_SLOT,
    bytes_p,
    hooks_clock,
    length_of,
    log_bytes,
    offset_of,
    pack,
    page_bytes,
    record_p,
    segment_of,
    segment_p,
)
from cython.cimports.frontswap.core.leases import slot_give
from cython.cimports.frontswap.core.swapfile import disk_rests, slot_read, slot_take, slot_write
from cython.cimports.frontswap.core.uapi import (
    ENOSPC,
    MADV_DONTNEED,
    add64,
    addi,
    backoff,
    int32_t,
    int64_t,
    load64,
    loadi,
    loadp,
    lock,
    madvise,
    storep,
    uint32_t,
    uint64_t,
    unlock,
    wake,
)
from cython.cimports.libc.string import memcpy


def slots_kept(pg, less):
    """RAM slots that stay backed for the segments of refused pages that are not in RAM now, of which `less` are about
    to leave it: so what has to go needs no memory on its way. The caller holds log_lock.
    """
    if pg.areas != cython.NULL or pg.file < 0:
        return 0
    return cython.cast(uint32_t, SLOT_STREAM_RAM - pg.slot_ram + less)


def slots_back(pg):
    """Back them, at the registration: from then on pages may have to leave."""
    lock(cython.address(pg.log_lock))
    while pg.warm_n < slots_kept(pg, 0) and pg.fresh_ram < pg.ram_slots:
        pg.warm[pg.warm_n] = pg.fresh_ram
        pg.warm_n += 1
        populate(pg.pool + cython.cast(uint64_t, pg.fresh_ram) * pg.segment_bytes, pg.segment_bytes)
        pg.fresh_ram += 1
    unlock(cython.address(pg.log_lock))


def segment_release(pg, number):
    """Put an empty segment back. Returns its RAM slot + 1 if it had one. The caller holds log_lock."""
    s: segment_p = cython.address(pg.segments[number])
    ram: uint32_t = 0
    if s.ram != cython.NULL:
        ram = s.ram_slot + 1
        storep(cython.address(s.ram), cython.NULL)
    if s.slot >= 0:
        slot_give(pg, s.slot)
        s.slot = -1
    s.state = SEG_FREE
    s.serial += 1
    s.newer = pg.free_segment
    pg.free_segment = number
    return ram


def ram_release(pg, ram_slot, stream, fill):
    """Give the frames of a RAM slot back to the system and its bytes back to the limit.

    One slot is kept backed beside those of slots_kept(), for the segment that is opened next: while the pool is
    written out as fast as it is filled, its frames go round. Called without log_lock: giving 2 MiB back takes 50 us.
    """
    if stream == STREAM_POOL:
        add64(cython.address(pg.pool_bytes), -cython.cast(int64_t, fill))
        add64(cython.address(pg.used), -cython.cast(int64_t, fill))
    lock(cython.address(pg.log_lock))
    if pg.warm_n <= slots_kept(pg, stream == STREAM_SLOT):
        pg.warm[pg.warm_n] = ram_slot
        pg.warm_n += 1
        if stream == STREAM_SLOT:
            pg.slot_ram -= 1
        unlock(cython.address(pg.log_lock))
        return
    unlock(cython.address(pg.log_lock))
    madvise(
        cython.cast(cython.p_void, pg.pool + cython.cast(uint64_t, ram_slot) * pg.segment_bytes),
        pg.segment_bytes,
        MADV_DONTNEED,
    )
    lock(cython.address(pg.log_lock))
    pg.free_ram[pg.free_ram_n] = ram_slot
    pg.free_ram_n += 1
    if stream == STREAM_SLOT:
        pg.slot_ram -= 1
    unlock(cython.address(pg.log_lock))


def slot_ahead(pg):
    """Back a RAM slot for the segment that is opened next, where none is: else who fills it pays for its page faults,
    which take longer than the copy of a page. The writeback thread, in front of areas; one slot stays so.
    """
    ram_slot: uint32_t
    lock(cython.address(pg.log_lock))
    if pg.warm_n or (pg.free_ram_n == 0 and pg.fresh_ram == pg.ram_slots):
        unlock(cython.address(pg.log_lock))
        return
    if pg.free_ram_n:
        pg.free_ram_n -= 1
        ram_slot = pg.free_ram[pg.free_ram_n]
    else:
        ram_slot = pg.fresh_ram
        pg.fresh_ram += 1
    unlock(cython.address(pg.log_lock))
    populate(pg.pool + cython.cast(uint64_t, ram_slot) * pg.segment_bytes, pg.segment_bytes)
    lock(cython.address(pg.log_lock))
    pg.warm[pg.warm_n] = ram_slot  # beside one at most that has been given back meanwhile
    pg.warm_n += 1
    unlock(cython.address(pg.log_lock))


def owner_of(stream):
    """The stream whose segments are filled by way of another one's open end."""
    return STREAM_POOL if stream == STREAM_DENSE else stream


def segment_open(pg, stream):
    """A new segment with a RAM slot, or 0. The caller holds log_lock."""
    number: uint32_t
    s: segment_p
    warm: cython.bint
    if stream == STREAM_SLOT and pg.slot_ram >= SLOT_STREAM_RAM:
        return 0
    warm = pg.warm_n > 0 and (stream == STREAM_SLOT or pg.warm_n > slots_kept(pg, 0))
    # The open end of the pool has frames beyond what is charged for it, which reserve_bytes() counts. That of the dense
    # ones is not counted there: its frames come with its bytes.
    if stream == STREAM_DENSE and (pg.free_ram_n or pg.fresh_ram < pg.ram_slots):
        warm = False
    if not warm and pg.free_ram_n == 0 and pg.fresh_ram == pg.ram_slots:
        return 0
    if pg.free_segment:
        number = pg.free_segment
        pg.free_segment = pg.segments[number].newer
    elif pg.next_segment < pg.max_segments:
        number = pg.next_segment
        pg.next_segment += 1
    else:
        return 0
    s = cython.address(pg.segments[number])
    if warm:
        pg.warm_n -= 1
        s.ram_slot = pg.warm[pg.warm_n]
    elif pg.free_ram_n:
        pg.free_ram_n -= 1
        s.ram_slot = pg.free_ram[pg.free_ram_n]
    else:
        s.ram_slot = pg.fresh_ram
        pg.fresh_ram += 1
    s.slot = -1
    s.fill = 0
    s.live = 0
    s.raw = 0
    s.readers = 0
    s.writers = 0
    s.holders = 0
    s.unreadable = 0
    s.stays = 0
    s.stream = owner_of(stream)
    s.hits = 0
    s.dense = stream == STREAM_DENSE
    s.staged = 0
    s.older = s.newer = 0
    s.state = SEG_OPEN
    storep(cython.address(s.ram), pg.pool + cython.cast(uint64_t, s.ram_slot) * pg.segment_bytes)
    if stream == STREAM_SLOT:
        pg.slot_ram += 1
    return number


def tail_release(pg, s):
    """Give back what a sealed segment of the pool has beyond its records: one that was opened with a backed slot has
    frames there, and is charged for its bytes. Not for a 64th. The caller holds log_lock, so the slot stays its own.
    """
    filled: uint32_t = (s.fill + 4095) & ~cython.cast(uint32_t, 4095)
    if s.stream == STREAM_POOL and filled + pg.segment_bytes // 64 < pg.segment_bytes:
        madvise(cython.cast(cython.p_void, s.ram + filled), pg.segment_bytes - filled, MADV_DONTNEED)


def segment_seal(pg, number):
    """Close a full segment. Returns RAM slot + 1 if it was dead already. The caller holds log_lock.

    It wakes the writeback thread when it has let go of the lock: who is woken may take the processor at once.
    """
    s: segment_p = cython.address(pg.segments[number])
    s.state = SEG_SEALED
    if loadi(cython.address(s.live)) == 0:
        return segment_release(pg, number)
    tail_release(pg, s)
    pg.seals += 1
    s.sealed = pg.seals
    s.sealed_at = hooks_clock(pg)
    if s.dense:
        age_insert(pg, number)
        return 0
    note_seal(pg, s)
    age_append(pg, number)
    return 0


def segment_renew(pg, number):
    """Make a sealed segment the youngest: it could not leave, others may."""
    lock(cython.address(pg.log_lock))
    if pg.segments[number].state == SEG_SEALED:
        age_remove(pg, number)
        age_append(pg, number)
    unlock(cython.address(pg.log_lock))


def segment_close(pg, stream):
    """Seal the open segment of a stream, so that it can leave."""
    number: uint32_t
    fill: uint32_t = 0
    released: uint32_t = 0
    lock(cython.address(pg.log_lock))
    number = pg.open_segment[stream]
    if number:
        pg.open_segment[stream] = 0
        fill = pg.segments[number].fill
        released = segment_seal(pg, number)
    unlock(cython.address(pg.log_lock))
    wake(cython.address(pg.writeback_event))
    if released:
        ram_release(pg, released - 1, owner_of(stream), fill)


def record_append(pg, stream, header, data):
    """Append a record; its place, or 0 when there is no room.

    `header.length` bytes of `data` follow the header. STREAM_POOL and STREAM_DENSE charge the limit (the caller has
    made room); STREAM_SLOT has its own reserve and writes what it has filled.
    """
    owner: cython.int = owner_of(stream)
    need: uint32_t = log_bytes(header.length)
    number: uint32_t
    offset: uint32_t
    released: uint32_t
    fill: uint32_t
    turn: cython.int = 0
    error: cython.int
    sealed: cython.bint = False
    s: segment_p
    to: bytes_p
    while True:
        released = 0
        fill = 0
        lock(cython.address(pg.log_lock))
        number = pg.open_segment[stream]
        if number and stream == STREAM_CLEAN and pg.segments[number].fill + need > pg.segment_bytes:
            # The cleaner writes its own segment, to a slot kept for it. Through STREAM_SLOT it would wait
            # for slots behind the very evictors that wait for it.
            pg.open_segment[stream] = 0
            pg.segments[number].state = SEG_MOVING
            unlock(cython.address(pg.log_lock))
            if segment_write(pg, number, True) != 0:
                return 0
            continue
        if number and pg.segments[number].fill + need > pg.segment_bytes:
            fill = pg.segments[number].fill
            released = segment_seal(pg, number)
            sealed = True
            pg.open_segment[stream] = number = 0
        if number == 0:
            number = segment_open(pg, stream)
            pg.open_segment[stream] = number
        if number:
            break
        unlock(cython.address(pg.log_lock))
        if sealed:
            wake(cython.address(pg.writeback_event))
            sealed = False
        if released:
            ram_release(pg, released - 1, owner, fill)
            continue
        if stream != STREAM_SLOT:
            return 0
        # Both segments are full. Write one, or wait for who writes it or for who frees a slot.
        error = write_slot_stream(pg)
        if error != 0 and (
            loadi(cython.address(pg.disk_error)) != 0
            or (error == ENOSPC and loadi(cython.address(pg.no_slots)) != 0)
            or (error == ENOSPC and loadi(cython.address(pg.writers_back)) == 0)  # see charge()
        ):
            return 0
        wake(cython.address(pg.writeback_event))
        turn += 1
        if turn > 4000:
            return 0
        backoff(turn)
    s = cython.address(pg.segments[number])
    offset = s.fill
    s.fill += need
    addi(cython.address(s.live), need)
    add64(cython.address(s.raw), cython.cast(int64_t, 1) << header.shift)
    addi(cython.address(s.writers), 1)
    to = s.ram + offset
    unlock(cython.address(pg.log_lock))
    if sealed:
        wake(cython.address(pg.writeback_event))
    if released:
        ram_release(pg, released - 1, owner, fill)
    if owner == STREAM_POOL:
        add64(cython.address(pg.pool_bytes), need)
        add64(cython.address(pg.used), need)
    memcpy(to, header, HEADER)
    memcpy(to + HEADER, data, header.length)
    addi(cython.address(s.writers), -1)
    return pack(number, offset, need)


def read_window(pg, ctx, page, more, start, end):
    """Widen what is read of a segment, from `*start` to `*end`, to the records of the pages that are wanted next.

    Those may lie on both sides: pages leave in the order in which they were touched, in batches of several
    threads. What is looked at belongs to others and may change: it is a hint, every record is verified.
    """
    number: uint32_t = segment_of(pg.pages[page].where)
    fill: uint32_t = pg.segments[number].fill
    low: uint32_t = start[0]
    high: uint32_t = end[0]
    gap: uint32_t = cython.cast(uint32_t, ctx.io_size) // 4
    # Records are half as large as pages, say: what lies further off is for another read.
    most: cython.int = cython.cast(cython.int, 2 * ctx.io_size // page_bytes(pg, page))
    other: uint32_t = page
    offset: uint32_t
    length: uint32_t
    where: uint64_t
    if more > most:
        more = most
    elif more < -most:
        more = -most
    while more != 0:
        other = other + 1 if more > 0 else other - 1
        more = more - 1 if more > 0 else more + 1
        if other == 0 or other >= pg.max_pages:
            break
        where = load64(cython.cast(cython.pointer(int64_t), cython.address(pg.pages[other].where)))
        offset = offset_of(where)
        length = length_of(where)
        if segment_of(where) != number or offset + length > fill:
            continue
        if offset < low and offset + length + gap >= low and high - (offset & ~(IO_ALIGN - 1)) <= ctx.io_size:
            low = offset
        elif offset + length > high and high + gap >= offset and offset + length - low + IO_ALIGN <= ctx.io_size:
            high = offset + length
    start[0] = low & ~(IO_ALIGN - 1)
    end[0] = (high + IO_ALIGN - 1) & ~(IO_ALIGN - 1)


def record_get(pg, ctx, page, more, record):
    """Make a page's record readable; 0 or an errno. record_put() ends it.

    `more`: how many pages after it (negative: before it) are wanted next, and read in the same go. The
    caller owns the page, so the record cannot go; its segment can leave RAM meanwhile.
    """
    where: uint64_t = pg.pages[page].where
    number: uint32_t = segment_of(where)
    offset: uint32_t = offset_of(where)
    length: uint32_t = length_of(where)
    s: segment_p = cython.address(pg.segments[number])
    ram: bytes_p
    start: uint32_t
    end: uint32_t
    error: cython.int
    addi(cython.address(s.readers), 1)
    ram = loadp(cython.address(s.ram))
    if ram != cython.NULL:
        record[0] = cython.cast(record_p, ram + offset)
        return 0
    addi(cython.address(s.readers), -1)
    if not (
        ctx.io_segment == number and ctx.io_serial == s.serial and ctx.io_at <= offset and offset + length <= ctx.io_end
    ):
        start = offset
        end = offset + length
        read_window(pg, ctx, page, more, cython.address(start), cython.address(end))
        ctx.io_end = 0
        error = slot_read(pg, s.slot, start, ctx.io, end - start)
        if error:
            return error
        ctx.io_segment = number
        ctx.io_serial = s.serial
        ctx.io_at = start
        ctx.io_end = end
    record[0] = cython.cast(record_p, ctx.io + (offset - ctx.io_at))
    return 0


def record_put(pg, where):
    """End of record_get() on a record that was in RAM."""
    addi(cython.address(pg.segments[segment_of(where)].readers), -1)


def record_on_disk(pg, where):
    """True when the record's segment is in the swap file only."""
    return loadp(cython.address(pg.segments[segment_of(where)].ram)) == cython.NULL


def record_drop(pg, where, page_bytes):
    """The page has no use for its record any more; the caller owns the page."""
    number: uint32_t = segment_of(where)
    s: segment_p = cython.address(pg.segments[number])
    length: int32_t = length_of(where)
    add64(cython.address(s.raw), -cython.cast(int64_t, page_bytes))
    if addi(cython.address(s.live), -length) == length:
        free_empty(pg, number, 0)


def free_empty(pg, number, held):
    """Free a segment if nothing in it lives. The caller has taken `live` to 0, or `held` it until now (1)."""
    s: segment_p = cython.address(pg.segments[number])
    ram: uint32_t = 0
    fill: uint32_t
    stream: uint32_t
    lock(cython.address(pg.log_lock))
    s.holders -= held
    fill = s.fill
    stream = s.stream
    # Another store may have raised `live` again, or another drop may have freed it already.
    if loadi(cython.address(s.live)) == 0 and s.holders == 0 and (s.state == SEG_SEALED or s.state == SEG_DISK):
        if s.state == SEG_SEALED:
            age_remove(pg, number)
        ram = segment_release(pg, number)
    unlock(cython.address(pg.log_lock))
    if ram:
        ram_release(pg, ram - 1, stream, fill)


def segment_hold(pg, number, serial):
    """Keep a sealed segment from being freed, and its RAM from being taken; NULL if it is not that one any more.

    Its records are what they were; pages may give them up, and it may be on its way to the disk. segment_let_go() ends
    it.
    """
    s: segment_p = cython.address(pg.segments[number])
    ram: bytes_p = cython.NULL
    turn: cython.int = 0
    lock(cython.address(pg.log_lock))
    if s.serial == serial and s.state == SEG_SEALED:
        s.holders += 1
        # Who takes its RAM does so after this, and waits for readers then.
        addi(cython.address(s.readers), 1)
        ram = s.ram
    unlock(cython.address(pg.log_lock))
    while ram != cython.NULL and loadi(cython.address(s.writers)) != 0:
        backoff(turn)
        turn += 1
    return ram


def segment_let_go(pg, number):
    """End of segment_hold()."""
    addi(cython.address(pg.segments[number].readers), -1)
    free_empty(pg, number, 1)


def move_begin(pg, number):
    """Take a sealed segment for writing or cleaning. The caller holds log_lock."""
    s: segment_p = cython.address(pg.segments[number])
    if s.state == SEG_SEALED:
        age_remove(pg, number)
    s.state = SEG_MOVING


def ram_take(pg, number):
    """Take the RAM of a segment in SEG_MOVING away from loads; its records are in the file."""
    s: segment_p = cython.address(pg.segments[number])
    turn: cython.int = 0
    storep(cython.address(s.ram), cython.NULL)
    while loadi(cython.address(s.readers)) != 0:
        backoff(turn)
        turn += 1
    ram_release(pg, s.ram_slot, s.stream, s.fill)


def move_end(pg, number, state):
    """A segment in SEG_MOVING gets its next state, or goes if it became empty meanwhile: True then."""
    gone: cython.bint
    s: segment_p = cython.address(pg.segments[number])
    ram: uint32_t = 0
    fill: uint32_t
    stream: uint32_t
    lock(cython.address(pg.log_lock))
    fill = s.fill
    stream = s.stream
    s.state = state
    if loadi(cython.address(s.live)) == 0 and s.holders == 0:
        ram = segment_release(pg, number)
    elif state == SEG_SEALED:
        age_prepend(pg, number)
    elif state == SEG_OPEN:
        pg.open_segment[stream] = number
    gone = s.state == SEG_FREE
    unlock(cython.address(pg.log_lock))
    if ram:
        ram_release(pg, ram - 1, stream, fill)
    return gone


def segment_write(pg, number, cleaning):
    """Write a segment in SEG_MOVING to a slot and give its RAM back; 0 or an errno."""
    s: segment_p = cython.address(pg.segments[number])
    slot: int64_t
    error: cython.int
    back: uint32_t
    turn: cython.int = 0
    while loadi(cython.address(s.writers)) != 0:
        backoff(turn)
        turn += 1
    back = SEG_OPEN if s.stream == STREAM_CLEAN else SEG_SEALED
    error = disk_rests(pg)
    if error:
        move_end(pg, number, back)
        return error
    lock(cython.address(pg.log_lock))
    slot = slot_take(pg, cleaning)
    unlock(cython.address(pg.log_lock))
    if slot < 0:
        move_end(pg, number, back)
        return ENOSPC
    error = slot_write(pg, slot, s.ram, s.fill)
    if error:
        add64(cython.address(pg.counters[C_SLOT_ERRORS]), 1)
        lock(cython.address(pg.log_lock))
        # Below the others: a bad sector must not be the next one tried.
        pg.free_slots[pg.free_slots_n] = pg.free_slots[0]
        pg.free_slots[0] = cython.cast(uint32_t, slot)
        pg.free_slots_n += 1
        unlock(cython.address(pg.log_lock))
        move_end(pg, number, back)
        return error
    add64(cython.address(pg.counters[C_WRITTEN_BACK_BYTES]), s.fill)
    budget_spend(pg, s.fill)
    s.slot = slot
    ram_take(pg, number)
    move_end(pg, number, SEG_DISK)
    return 0


def write_coldest(pg):
    """Write the coldest segment of the pool to the swap file; 0, -1 if there is none, or an errno."""
    number: uint32_t
    lock(cython.address(pg.log_lock))
    number = coldest(pg)
    if number == 0 or pg.file < 0:
        unlock(cython.address(pg.log_lock))
        return -1
    move_begin(pg, number)
    unlock(cython.address(pg.log_lock))
    return segment_write(pg, number, False)


def write_slot_stream(pg):
    """Write a full segment of refused pages; 0, -1 if there is none to write, or an errno."""
    number: uint32_t
    lock(cython.address(pg.log_lock))
    number = pg.full_slots[0]
    if number == 0 or pg.file < 0:
        unlock(cython.address(pg.log_lock))
        return -1
    move_begin(pg, number)
    unlock(cython.address(pg.log_lock))
    return segment_write(pg, number, False)
