"""Balance: how much of the limit the compressed pool gets, and how much is left for resident pages.

Each segment of the pool counts what is loaded from it (`hits`, which fade by an eighth with every look), and now and
then two things are compared, with what they cost: pages that come back before as much has left after them as the pool
takes (the refault distance of mm/workingset.c), which would have stayed if nothing were compressed; and loads from the
quarter of the pool that has the fewest, which would have been reads of the disk if the pool were smaller by that. Per
byte of RAM that would change sides, one is what a smaller pool wins and the other what it loses (as the ghosts of ARC,
Megiddo and Modha, FAST '03). So records that nobody asks for leave for the disk, and do not keep RAM from what is in
use. If it is small, and most of what is in use has to be read from the disk all the same, that is larger than what can
be resident, and may fit when it is compressed: the pool gets time to grow, and pages that come back go into it. Without
evidence, as in a scan of more than fits, nothing changes: the pool begins with all that it may have.

All is counted without locks, and looked at without: a segment may be another one by then. These are hints.
"""

import cython
from cython.cimports.frontswap.core.layout import (
    PRESSURE_NONE,
    SEG_OPEN,
    SEG_SEALED,
    STREAM_POOL,
    pressure_of,
    segment_p,
)
from cython.cimports.frontswap.core.uapi import (
    add64,
    cas64,
    int64_t,
    load64,
    loadi,
    store64,
    uint32_t,
    wake,
)
from cython.cimports.libc.string import memset

LOOK = cython.declare(cython.int, 256)  # segments at most that are looked at under log_lock
DISK_COST = cython.declare(int64_t, 4)  # of a load, in loads from the pool
GROWS = cython.declare(int64_t, 24)  # looks: twice as long as it takes to the most that there is


def note_hit(pg, number, bytes):
    """A record in RAM has been loaded: where it lies, by its segment."""
    s: segment_p = cython.address(pg.segments[number])
    if s.stream != STREAM_POOL:
        return FROM_DISK  # on its way there
    add64(cython.address(s.hits), bytes)
    return FROM_POOL


def note_seal(pg, s):
    """A segment is full, and has had no time for hits: it gets the usual ones."""
    add64(cython.address(s.hits), (load64(cython.address(s.raw)) >> 10) * load64(cython.address(pg.hits_usual)))


def note_move(pg, s, number, shift):
    """A record of a page has gone from `s` to another segment, which gets no usual hits: it takes its own along."""
    hits: int64_t = density(s) << shift >> 10
    add64(cython.address(s.hits), -hits)
    add64(cython.address(pg.segments[number].hits), hits)


def density(s):
    """Bytes loaded per KiB of pages."""
    return load64(cython.address(s.hits)) // ((load64(cython.address(s.raw)) >> 10) + 1)


def balance_note(pg, ctx, bytes, away):
    """A page has come back from `ctx.source`, after `away` bytes had left since it did."""
    seen: int64_t
    wins: int64_t
    loses: int64_t
    target: int64_t
    least: int64_t
    held: int64_t = load64(cython.address(pg.pool_bytes))
    if ctx.source == FROM_NOWHERE or pg.file < 0 or pg.areas != cython.NULL:
        return
    if ctx.source == FROM_DISK and away <= pg.budget and not ctx.from_slot:
        add64(cython.address(pg.back_disk), bytes)
    if away <= held:
        add64(cython.address(pg.back_soon), bytes * DISK_COST if ctx.source == FROM_DISK else bytes)
    seen = add64(cython.address(pg.back), bytes) + bytes
    # One of those who are here at once looks, every eighth of the limit.
    if seen < pg.budget // 8 or not cas64(cython.address(pg.back), seen, 0):
        return
    wins = load64(cython.address(pg.back_soon))
    store64(cython.address(pg.back_soon), 0)
    loses = look(pg) * (DISK_COST - 1) * 4  # of all that it holds, of a quarter of it
    target = pool_wanted(pg)
    least = pg.budget // 8
    if target <= least and load64(cython.address(pg.back_disk)) > seen // 2:
        store64(cython.address(pg.pool_grows), GROWS)
    store64(cython.address(pg.back_disk), 0)
    if load64(cython.address(pg.pool_grows)) > 0:
        add64(cython.address(pg.pool_grows), -1)
        target = min(target + pg.budget // 16, pg.pool_soft)
    elif wins > seen // 16 and wins > 2 * loses:
        target = max(min(target, held) - pg.budget // 32, least)
    elif loses > wins:
        target = min(target + pg.budget // 16, pg.pool_soft)
    store64(cython.address(pg.pool_target), target)
    if held > target:
        wake(cython.address(pg.writeback_event))


def look(pg):
    """Bytes loaded since the last look from the quarter of the pool with the fewest hits. All hits fade.

    Segments are sorted by powers of two of their density. They fade slowly enough that who reads twice what fits in
    turn comes round before what he has just read is among the coldest.
    """
    fill: int64_t[64]
    hits: int64_t[64]
    i: uint32_t
    s: segment_p
    place: cython.int
    rest: int64_t
    few: int64_t
    held: int64_t = 0
    left: int64_t
    raw: int64_t = 0
    found: int64_t = 0
    memset(fill, 0, cython.sizeof(fill))
    memset(hits, 0, cython.sizeof(hits))
    for i in range(1, pg.next_segment):
        s = cython.address(pg.segments[i])
        if s.stream != STREAM_POOL or (s.state != SEG_SEALED and s.state != SEG_OPEN):
            continue
        place = 0
        rest = density(s)
        while rest > 0:
            rest >>= 1
            place += 1
        fill[place] += s.fill
        hits[place] += load64(cython.address(s.hits)) >> 3
        held += s.fill
        raw += load64(cython.address(s.raw))
        found += load64(cython.address(s.hits))
        add64(cython.address(s.hits), -(load64(cython.address(s.hits)) >> 3))
    store64(cython.address(pg.hits_usual), found // ((raw >> 10) + 1))
    left = held // 4
    found = 0
    for place in range(64):
        if fill[place] >= left:
            # Of the last ones, a part.
            found += hits[place] // 1024 * (left * 1024 // (fill[place] + 1)) if fill[place] else 0
            break
        left -= fill[place]
        found += hits[place]
    few = (cython.cast(int64_t, 1) << place) - 1 if place < 62 else 0
    store64(cython.address(pg.hits_few), few)
    return found


def coldest(pg):
    """The segment that leaves next: the oldest one with few hits, or the oldest one. The caller holds log_lock."""
    number: uint32_t = pg.oldest
    i: cython.int
    for i in range(LOOK):
        if number == 0:
            break
        if density(cython.address(pg.segments[number])) <= load64(cython.address(pg.hits_few)):
            return number
        number = pg.segments[number].newer
    return pg.oldest


def pool_has_room(pg, bytes):
    """True if a page may come back to the pool, and nothing leaves for it.

    Room is more than what one writeback leaves below the mark: else each segment that was written out would let pages
    in for whom the next one is, and who only reads at random would write for ever.
    """
    most: int64_t = pool_wanted(pg)
    most -= most // 16 + 2 * cython.cast(int64_t, pg.segment_bytes)
    return pg.file >= 0 and pressure_of(pg) == PRESSURE_NONE and load64(cython.address(pg.pool_bytes)) + bytes <= most


def pool_wanted(pg):
    """Bytes above which the pool's coldest segments leave."""
    if loadi(cython.address(pg.write_spent)):
        return pg.pool_soft
    return min(pg.pool_soft, load64(cython.address(pg.pool_target)))
