"""zcache: compressed pages in RAM, the backend that every fault meets first.

Decides what is accepted, what goes to the swap file and when: same-filled pages cost nothing;
what does not shrink is refused; above its share of the limit the coldest segments leave (writeback).
Where records lie is the record log's business (segments), how they are made that of record and codec.

In front of swap areas a page may be staged: taken as it is, while there is much room, and packed by recompress.py when
a processor has nothing else to do (post-process compression, as storage calls it, in the place of inline compression).
What is staged counts as what it takes, wherever bytes are counted.
"""

import cython
from cython.cimports.frontswap.core.balance import pool_wanted
from cython.cimports.frontswap.core.choice import MISSES_MANY
from cython.cimports.frontswap.core.cleaner import is_resting
from cython.cimports.frontswap.core.codec import codec_same_filled
from cython.cimports.frontswap.core.layout import (
    ACCEPTED,
    C_SAME_FILLED,
    C_SHARING,
    HASTY,
    HEADER,
    KIND,
    PLAIN,
    PRESSURE_CRITICAL,
    PRESSURE_LOW,
    PRESSURE_NONE,
    RECORD_LOG,
    RECORD_SAME,
    REFUSED_INCOMPRESSIBLE,
    REFUSED_POOL_FULL,
    REFUSED_PRESSURE,
    REFUSED_QUOTA,
    SEG_OPEN,
    SEG_SEALED,
    STREAM_POOL,
    UNIT,
    UNTOLD,
    area_p,
    block_p,
    is_plain,
    is_sharing,
    length_of,
    page_bytes,
    page_p,
    pressure_of,
    segment_of,
    segment_p,
)
from cython.cimports.frontswap.core.policy import (
    policy_dropped,
    policy_gone,
    policy_loaded,
    policy_room,
    policy_stored,
)
from cython.cimports.frontswap.core.record import log_load, record_make, record_plain, room_ahead
from cython.cimports.frontswap.core.segments import record_append, record_drop
from cython.cimports.frontswap.core.shares import pool_charge, pool_held, pool_live, pool_uncharge, share_below
from cython.cimports.frontswap.core.uapi import (
    add64,
    backoff,
    int64_t,
    load64,
    loadi,
    storei,
    uint32_t,
    uint64_t,
    wake,
)
from cython.cimports.frontswap.core.victims import pool_records, pool_write
from cython.cimports.libc.string import memcpy

PATIENCE = cython.declare(cython.int, 400)  # turns of backoff()


def zcache_store(b, pg, ctx, page, data, kind):
    """The backend's store. `ctx.is_packed` says that `ctx.packed` may be used further, when it refuses."""
    p: page_p = cython.address(pg.pages[page])
    value: uint64_t = 0
    where: uint64_t
    need: int64_t
    tries: cython.int
    error: cython.int = 0
    staged: cython.bint
    mark: uint32_t
    s: segment_p
    if pressure_of(pg) == PRESSURE_CRITICAL and pool_has_slots(pg):
        return REFUSED_PRESSURE
    if codec_same_filled(data, cython.cast(uint32_t, 1) << pg.blocks[p.block].shift, cython.address(value)):
        add64(cython.address(pg.counters[C_SAME_FILLED]), 1)
        p.where = value
        kind[0] = RECORD_SAME
        if pg.policy.of != cython.NULL:
            policy_gone(pg, page)
        return ACCEPTED
    room_ahead(pg)
    staged = pg.staging != 0 and may_stage(pg, page)
    if staged:
        # Of the copy: `data` may be a buffer that its owner writes to just now, and the checksum is to hold.
        memcpy(ctx.packed, data, cython.cast(uint32_t, 1) << pg.blocks[p.block].shift)
        record_plain(pg, ctx, page, ctx.packed)
    elif not record_make(pg, ctx, page, data):
        return REFUSED_INCOMPRESSIBLE
    elif pg.areas != cython.NULL and pg.areas[p.block].misses != 0:
        pg.areas[p.block].misses = 0
    need = HEADER + ctx.header.length
    if need > pg.segment_bytes:
        return REFUSED_POOL_FULL  # only where zcache:size= is small beside the page
    if load64(cython.address(pg.pool_bytes)) > pool_mark(pg):
        wake(cython.address(pg.writeback_event))
    # The writeback thread has fallen behind: who fills the pool helps to empty it.
    for tries in range(4):
        if load64(cython.address(pg.pool_bytes)) + need <= pool_limit(pg, pg.pool_hard):
            break
        error = pool_write(pg, policy_room(pool_limit(pg, pg.pool_hard)) - need)
        if error != 0:
            break
    # By policy what has left is dead first. (If nothing could, the cleaner has nothing to win.)
    if pg.areas != cython.NULL or (
        pg.policy.of != cython.NULL and error <= 0 and loadi(cython.address(pg.writers_back)) != 0
    ):
        await_cleaner(pg, need)
    if load64(cython.address(pg.pool_bytes)) + need > pool_limit(pg, pg.pool_hard):
        return REFUSED_POOL_FULL
    need = (need + UNIT - 1) // UNIT * UNIT
    if pg.areas != cython.NULL and not is_granted(pg, page, need):
        return REFUSED_QUOTA
    where = record_append(pg, STREAM_POOL, cython.address(ctx.header), ctx.packed)
    if where == 0:
        if pg.areas != cython.NULL:
            pool_uncharge(pg, page, need)
        return REFUSED_POOL_FULL
    p.where = where
    p.check = ctx.header.check
    kind[0] = RECORD_LOG
    # The page is owned, so its segment is there.
    s = cython.address(pg.segments[segment_of(where)])
    mark = PLAIN if staged else 0 if rushes(cython.address(pg.blocks[p.block])) else HASTY
    if s.staged < mark:
        s.staged = mark
    if staged:
        add64(cython.address(pg.staged), need)
    if pg.policy.of != cython.NULL:
        policy_stored(pg, page)
    if pressure_of(pg) == PRESSURE_CRITICAL and pg.areas != cython.NULL:
        wake(cython.address(pg.writeback_event))  # since we have looked; who empties the pool may be done
    return ACCEPTED


def await_cleaner(pg, need):
    """Let who moves records finish, if there is room for what lives: until its segment is free the pool has them twice,
    and is full without being so. Some milliseconds; it waits for no page, nor for what we hold.
    """
    turn: cython.int = 0
    live: int64_t = pool_records(pg) if pg.areas == cython.NULL else 0
    # Of a Memory a batch of pages waits, each by itself.
    patience: cython.int = PATIENCE // 8 if pg.areas == cython.NULL else PATIENCE
    while (
        turn < patience
        and load64(cython.address(pg.pool_bytes)) + need > pool_limit(pg, pg.pool_hard)
        and (live if pg.areas == cython.NULL else pool_live(pg) + packs_dead(pg)) + need <= pool_limit(pg, pg.pool_hard)
    ):
        if turn == 0:
            wake(cython.address(pg.writeback_event))
        backoff(turn)
        turn += 1


def may_stage(pg, page):
    """True if a page may be taken as it is.

    There is somebody who packs it later, with buffers for it; what is staged has a bound, and an area with a quota has
    less than half of that; the pool has less than half of what it may have, and memory is not short. And the area's
    pages have been getting smaller: of others most would not be packed now either, but refused.
    """
    block: block_p = cython.address(pg.blocks[pg.pages[page].block])
    need: int64_t = HEADER + (cython.cast(int64_t, 1) << block.shift)
    area: area_p = cython.address(pg.areas[pg.pages[page].block])
    quota: int64_t = load64(cython.address(area.quota))
    return (
        need - HEADER <= pg.dense_page
        and need <= pg.segment_bytes
        and pressure_of(pg) == PRESSURE_NONE
        and load64(cython.address(pg.staged)) + need <= pg.staging
        and load64(cython.address(pg.pool_bytes)) + need <= pool_limit(pg, pool_wanted(pg)) // 2
        and area.misses < MISSES_MANY
        and block.choice.misses < MISSES_MANY
        and not rushes(block)
        and (quota < 0 or pool_held(pg, pg.pages[page].block) + need <= quota // 2)
    )


def rushes(block):
    """True where LZ4 takes no longer than a copy of what it leaves out, and another codec would gain little."""
    return block.choice.best == 0 and block.choice.rushes


def is_granted(pg, page, need):
    """Charge a record to the page's area; False: its quota or its share does not allow it.

    Who has no less than his share leaves the rest of a pool that is full to those who have, also while nothing of his
    can leave.
    """
    if pg.weights and pool_live(pg) + need > pool_limit(pg, pg.pool_soft) and not share_below(pg, pg.pages[page].block):
        return False
    return pool_charge(pg, page, need)


def zcache_load(b, pg, ctx, page, state, more):
    """The backend's load."""
    error: cython.int = log_load(pg, ctx, page, state, more)
    if pg.policy.of != cython.NULL and error == 0 and (state & (KIND | UNTOLD)) == RECORD_LOG:
        policy_loaded(pg, page)
    return error


def zcache_forget(b, pg, page, state):
    """The backend's invalidate: a page of one word has nothing to drop."""
    where: uint64_t = pg.pages[page].where
    if (state & KIND) == RECORD_LOG:
        record_drop(pg, where, page_bytes(pg, page))
        if is_sharing(where):
            add64(cython.address(pg.counters[C_SHARING]), -1)
        if pg.areas != cython.NULL:
            pool_uncharge(pg, page, length_of(where))
            if is_plain(where, page_bytes(pg, page)):
                add64(cython.address(pg.staged), -cython.cast(int64_t, length_of(where)))
        if pg.policy.of != cython.NULL:
            policy_dropped(pg, page, state)


def zcache_pressure(b, pg, level):
    """Take less from now on, nothing when it is critical. What is above leaves in the background, or by relieve()."""
    storei(cython.address(pg.pressure), level)
    wake(cython.address(pg.writeback_event))


def zcache_held(b, pg):
    """Bytes of RAM that the pool takes, dead space and headers counted."""
    return load64(cython.address(pg.pool_bytes))


def pool_limit(pg, most):
    """What the pool may take at this moment: what is pinned cannot make room for it, pressure takes its share."""
    left: int64_t = pg.budget - load64(cython.address(pg.pinned))
    if pg.areas == cython.NULL:
        left -= pg.budget // 8
    if most > left:
        most = left
    return pressure_share(most, pressure_of(pg)) if pool_has_slots(pg) else most


def pool_mark(pg):
    """Bytes above which some of the pool leaves: what is coldest, or who is named.

    By a policy behind the memory door that is below what stores wait for, also where pins or a budget that is spent
    leave no more: what leaves is dead first, and the cleaner needs a while. Of a small pool an eighth is enough.
    """
    mark: int64_t = pool_limit(pg, pool_wanted(pg))
    most: int64_t = pool_limit(pg, pg.pool_hard)
    if pg.areas == cython.NULL and pg.policy.of != cython.NULL:
        mark = min(mark, most - min(2 * cython.cast(int64_t, pg.segment_bytes), most // 8))
    return mark


def pool_has_slots(pg):
    """False for a Memory without a swap file: a page that its pool refuses ends the process, so it gives nothing up."""
    return pg.areas != cython.NULL or pg.file >= 0


def pressure_share(bytes, level):
    """What is left of a limit at a level of pressure: all, three quarters, half, nothing."""
    if level == PRESSURE_CRITICAL:
        return 0
    return bytes if level == PRESSURE_NONE else bytes // 4 * (3 if level == PRESSURE_LOW else 2)


def packs_dead(pg):
    """Bytes that are dead of packs, and that the cleaner does not win back: more of their segment lives, or it could
    not empty that, as where those that live may not bear what others have left to them (cleaner.py).

    Pages have to leave in their place, until it does. (By what lives alone nobody would, and a pool full of such packs
    would take no page any more.)
    """
    dead: int64_t = 0
    own: int64_t
    i: uint32_t
    s: segment_p
    for i in range(1, pg.next_segment):
        s = cython.address(pg.segments[i])
        own = loadi(cython.address(s.live))
        if (
            s.dense
            and (s.state == SEG_SEALED or s.state == SEG_OPEN)
            and (2 * own >= cython.cast(int64_t, s.fill) or is_resting(pg, s))
        ):
            dead += s.fill - own
    return dead


def pool_is_sparse(pg):
    """True when more than a sixteenth of the pool is dead, and a segment that is being filled; of areas, an eighth.

    A device is written over at random, and what is moved for each record stored is one part alive to one part dead: an
    eighth costs half of what a sixteenth does. (policy_room() reckons with it.)
    """
    part: int64_t = 16 if pg.areas == cython.NULL else 8
    filled: int64_t = 0
    live: int64_t = 0
    i: uint32_t
    s: segment_p
    for i in range(1, pg.next_segment):
        s = cython.address(pg.segments[i])
        if s.stream == STREAM_POOL and (s.state == SEG_SEALED or s.state == SEG_OPEN):
            filled += s.fill
            live += loadi(cython.address(s.live))
    if pg.areas != cython.NULL:
        live += packs_dead(pg)
    return filled - live > filled // part + cython.cast(int64_t, pg.segment_bytes)
