"""Balance: how much of the limit the compressed pool gets, and how much is left for resident pages.

Each segment of the pool counts what is loaded from it (`hits`, which fade by an eighth with every look). Where that is
less than an eighth of what is usual, it is cold. When pages come back soon, before as much has left after them as the
pool has in cold segments (the refault distance of mm/workingset.c), they would have stayed if those were on the disk:
so the pool becomes smaller, by its coldest segments. When nothing of it is cold it may grow again, up to what it began
with. Without evidence, as in a scan of more than fits, nothing changes.

All is counted without locks, and looked at without: a segment may be another one by then. These are hints.
"""

import cython
from cython.cimports.frontswap.core.layout import (
    PRESSURE_NONE,
    SEG_OPEN,
    SEG_SEALED,
    STREAM_POOL,
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

LOOK = cython.declare(cython.int, 256)  # segments at most that are looked at under log_lock


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


def density(s):
    """Bytes loaded per KiB of pages."""
    return load64(cython.address(s.hits)) // ((load64(cython.address(s.raw)) >> 10) + 1)


def balance_note(pg, ctx, bytes, away):
    """A page has come back from `ctx.source`, after `away` bytes had left since it did."""
    seen: int64_t
    soon: int64_t
    cold: int64_t
    held: int64_t
    target: int64_t
    if ctx.source == FROM_NOWHERE or pg.file < 0 or pg.areas != cython.NULL:
        return
    if away <= load64(cython.address(pg.pool_cold)):
        add64(cython.address(pg.back_soon), bytes)
    seen = add64(cython.address(pg.back), bytes) + bytes
    # One of those who are here at once looks, every eighth of the limit.
    if seen < pg.budget // 8 or not cas64(cython.address(pg.back), seen, 0):
        return
    soon = load64(cython.address(pg.back_soon))
    store64(cython.address(pg.back_soon), 0)
    cold = look(pg)
    held = load64(cython.address(pg.pool_bytes))
    target = pool_wanted(pg)
    if soon > seen // 16 and cold > 0:
        target = max(min(target, held) - min(cold, pg.budget // 32), pg.budget // 8)
    elif cold < held // 8:
        target = min(target + pg.budget // 16, pg.pool_soft)
    store64(cython.address(pg.pool_target), target)
    if held > target:
        wake(cython.address(pg.writeback_event))


def look(pg):
    """What is cold: bytes of it in the pool.

    Hits fade slowly enough that who reads twice what fits in turn comes round before they are few: by a quarter, what
    such a scan had just read was cold before its next turn, and the pool could not grow again.
    """
    i: uint32_t
    s: segment_p
    hits: int64_t = 0
    raw: int64_t = 0
    cold: int64_t = 0
    for i in range(1, pg.next_segment):
        s = cython.address(pg.segments[i])
        if s.stream == STREAM_POOL and (s.state == SEG_SEALED or s.state == SEG_OPEN):
            hits += load64(cython.address(s.hits))
            raw += load64(cython.address(s.raw))
    store64(cython.address(pg.hits_usual), hits // ((raw >> 10) + 1))
    store64(cython.address(pg.hits_few), load64(cython.address(pg.hits_usual)) // 8)
    for i in range(1, pg.next_segment):
        s = cython.address(pg.segments[i])
        if s.stream == STREAM_POOL and (s.state == SEG_SEALED or s.state == SEG_OPEN):
            if s.state == SEG_SEALED and density(s) <= load64(cython.address(pg.hits_few)):
                cold += s.fill
            add64(cython.address(s.hits), -(load64(cython.address(s.hits)) >> 3))
    store64(cython.address(pg.pool_cold), cold)
    return cold


def coldest(pg):
    """The segment that leaves next: the oldest one that is cold, or the oldest one. The caller holds log_lock."""
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
    return (
        pg.file >= 0
        and loadi(cython.address(pg.pressure)) == PRESSURE_NONE
        and load64(cython.address(pg.pool_bytes)) + bytes <= most
    )


def pool_wanted(pg):
    """Bytes above which the pool's coldest segments leave."""
    return min(pg.pool_soft, load64(cython.address(pg.pool_target)))
