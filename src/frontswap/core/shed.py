"""Shedding page by page, in front of swap areas: by policy, and by area where areas have shares (shares.py).

The page that the pool's policy names is written to its slot, or one that its area can do without: a hand goes round its
pages as in CLOCK (Corbato, 1968), and takes the first one in the pool that has not been loaded since it came by.

Races. A victim is held by the policy no longer, and its page is owned only then: meanwhile somebody may load it (it
leaves all the same), free it (there is nothing to do), or store it again (the policy holds it again: it stays). Who
waits for it owns no page, so nobody who does can be waiting for him; nor does any owner of a page wait for room.
The hand waits for no page: one that somebody owns is in use. Two hands at once take different pages. Who moves it has
entered the area, so that it does not go, and another one come in its place, in the middle of the walk.
"""

import cython
from cython.cimports.frontswap.core.areapages import area_leave, area_try_enter
from cython.cimports.frontswap.core.cleaner import clean_ram
from cython.cimports.frontswap.core.contexts import work_enter, work_leave
from cython.cimports.frontswap.core.frontswap import (
    count_area,
    frontswap_evacuate,
    frontswap_invalidate_page,
    page_poison,
    zcache_enter,
    zcache_leave,
)
from cython.cimports.frontswap.core.layout import (
    A_WRITTEN_BACK,
    BUSY,
    C_WRITTEN_BACK_BYTES,
    KIND,
    OUT,
    RECORD_LOG,
    REF,
    STATE,
    STREAM_DENSE,
    STREAM_POOL,
    UNTOLD,
    area_p,
    block_p,
    context_p,
    length_of,
    page_p,
)
from cython.cimports.frontswap.core.policy import policy_back, policy_has, policy_mean, policy_room, policy_victim
from cython.cimports.frontswap.core.segments import segment_close
from cython.cimports.frontswap.core.shares import pool_held, pool_live, share_below, share_most
from cython.cimports.frontswap.core.uapi import (
    ENOSPC,
    add64,
    backoff,
    cas32,
    clock_ns,
    int64_t,
    load32,
    load64,
    loadi,
    store32,
    uint32_t,
)
from cython.cimports.frontswap.core.zcache import packs_dead, pool_limit

# Victims that one store sheds, beyond the pages that come: a limit that was lowered is for the writeback thread.
MORE = cython.declare(int64_t, 64)
STAY = cython.declare(cython.int, 16)  # victims that cannot leave: then nobody is asked any more
LOOK = cython.declare(uint32_t, 1 << 14)  # pages that the hand goes by at once


def page_own(pg, page):
    """Wait for a page and own it; the state word that it had."""
    p: page_p = cython.address(pg.pages[page])
    state: uint32_t
    turn: cython.int = 0
    while True:
        state = load32(cython.address(p.state))
        if (state & STATE) != BUSY and cas32(cython.address(p.state), state, BUSY):
            return state
        if (state & STATE) == BUSY:
            backoff(turn)
            turn += 1


def page_shed(pg, ctx, page, state, told):
    """Write an owned page of the pool to its slot, and let go of it; the bytes of its record, -1: it stays.

    `told`: UNTOLD, the policy holds it no longer; or 0.
    """
    p: page_p = cython.address(pg.pages[page])
    length: uint32_t = length_of(p.where)
    kind: uint32_t = 0
    error: cython.int = frontswap_evacuate(pg, ctx, page, state | told, cython.address(kind))
    if error < 0:
        # Its record cannot be used. Left there it would keep its segment, and all behind it, for good.
        frontswap_invalidate_page(pg, page, state)
        page_poison(pg, page)
        return length
    if error > 0:
        if told:
            policy_back(pg, page)
        store32(cython.address(p.state), state)
        return -1
    add64(cython.address(pg.counters[C_WRITTEN_BACK_BYTES]), length)
    count_area(pg, page, A_WRITTEN_BACK)
    store32(cython.address(p.state), OUT | kind)
    return length


def shed_victim(pg, ctx, coming):
    """The policy's next victim leaves for its slot; the bytes of its record, 0: nobody is there, -1: it stays."""
    page: uint32_t = policy_victim(pg, coming)
    p: page_p = cython.address(pg.pages[page])
    state: uint32_t
    if page == 0:
        return 0
    state = page_own(pg, page)
    if (state & STATE) != OUT or (state & KIND) != RECORD_LOG or policy_has(pg, page):
        store32(cython.address(p.state), state)
        return -1
    if pg.weights and share_below(pg, p.block):
        policy_back(pg, page)
        store32(cython.address(p.state), state)
        return -1
    return page_shed(pg, ctx, page, state, UNTOLD)


def hand_next(pg, number, state):
    """Own the page of an area at which the hand stops, with the state word that it had; 0: none was near."""
    block: block_p = cython.address(pg.blocks[number])
    area: area_p = cython.address(pg.areas[number])
    at: uint32_t = load32(cython.address(area.hand))
    word: uint32_t
    left: uint32_t
    p: page_p
    for left in range(LOOK):
        if at >= block.pages:
            at = 0
        if at % 32 == 0 and pg.map[(block.first + at) // 32] == 0:
            at += 32
            continue
        p = cython.address(pg.pages[block.first + at])
        at += 1
        word = load32(cython.address(p.state))
        if (word & STATE) != OUT or (word & KIND) != RECORD_LOG:
            continue
        if word & REF:
            cas32(cython.address(p.state), word, word & ~cython.cast(uint32_t, REF))
        elif cas32(cython.address(p.state), word, BUSY):
            store32(cython.address(area.hand), at)
            state[0] = word
            return block.first + at - 1
    store32(cython.address(area.hand), at)
    return 0


def shed_of(pg, ctx, number, inside):
    """A page of an area leaves for its slot; the bytes of its record, 0: it has nothing in the pool, -1: it stays.

    `inside`: the area that the caller is in, 0: none. That one is not entered a second time, and nobody waits for
    another one that is closed: who is in it may wait for the context that we have.
    """
    page: uint32_t
    state: uint32_t = 0
    got: int64_t = -1
    if number == 0 or pool_held(pg, number) <= 0 or (number != inside and not area_try_enter(pg, number)):
        return 0
    page = hand_next(pg, number, cython.address(state))
    if page:
        got = page_shed(pg, ctx, page, state, 0)
    if number != inside:
        area_leave(pg, number)
    return got


def area_reclaim(pg, number, target, until):
    """Pages of an area leave until it has no more than `target` bytes in the pool, or none of the rest can; True: the
    time is up before (clock_ns). The caller is in the area, and owns nothing.
    """
    ctx: context_p
    got: int64_t
    # Twice round for those that have been loaded, and then as many as may be in somebody's hands.
    left: uint32_t = 2 * (pg.blocks[number].pages // LOOK + 1) + cython.cast(uint32_t, STAY)
    while left > 0 and pool_held(pg, number) > target:
        # Others wait for a resize that waits for us.
        if clock_ns() > until or loadi(cython.address(pg.areas[number].closed)):
            return True
        ctx = work_enter(pg)
        got = shed_of(pg, ctx, number, number)
        work_leave(pg, ctx)
        if got == 0:
            break
        if got < 0:
            left -= 1
    return False


def shed_next(pg, ctx, coming, inside):
    """Who gives way next leaves; see shed_victim(). With weights that is the policy's victim unless its area has less
    than its share, then a page of who has most. `inside`: see shed_of().
    """
    got: int64_t = 0
    if pg.policy.of != cython.NULL:
        got = shed_victim(pg, ctx, coming)
    return shed_of(pg, ctx, share_most(pg), inside) if got <= 0 and pg.weights else got


def close_all(pg):
    """Where nothing may stay in the pool: close what is open, for that would; also what the cleaner, or who had looked
    at the pressure before, has opened since. How many have been closed.
    """
    closed: cython.int = 0
    turn: cython.int
    if pool_limit(pg, pg.pool_hard) == 0:
        for turn in range(2):
            if pg.open_segment[STREAM_POOL if turn == 0 else STREAM_DENSE] != 0:
                segment_close(pg, STREAM_POOL if turn == 0 else STREAM_DENSE)
                closed += 1
    return closed


def shed_victims(pg, ctx):
    """Victims leave until the pool has its room or one segment's bytes are gone, and what is dead is cleaned.

    0; -1: nothing is to be done, ENOSPC: nobody could leave.
    """
    got: int64_t
    done: int64_t = 0
    stay: cython.int = 0
    turn: cython.int
    dead: int64_t = packs_dead(pg)
    while done < pg.segment_bytes and stay < STAY and pool_live(pg) + dead > policy_room(pool_limit(pg, pg.pool_hard)):
        got = shed_next(pg, ctx, 0, 0)
        if got == 0:
            break
        if got < 0:
            stay += 1
        else:
            done += got
    done += close_all(pg)
    for turn in range(2):
        if load64(cython.address(pg.pool_bytes)) <= pool_limit(pg, pg.pool_soft) or pool_limit(pg, pg.pool_hard) == 0:
            break
        got = clean_ram(pg, ctx)
        if got <= 0:
            break
        done += got
    if done > 0:
        return 0
    return ENOSPC if stay else -1


def room_for(each, pages, most):
    """Bytes to keep free of `most` for so many pages that come; a batch does not empty the pool before it is there."""
    return max(most // 8, each) if pages > 1 and each * pages > most // 8 else each * pages


def quota_make_room(pg, ctx, number, pages):
    """What has to leave of an area for so many pages of its own that come, by its quota, if it has one."""
    quota: int64_t = load64(cython.address(pg.areas[number].quota))
    need: int64_t = room_for(cython.cast(int64_t, 1) << pg.blocks[number].shift, pages, quota)
    left: int64_t = pages + MORE
    stay: cython.int = 0
    got: int64_t
    while quota >= 0 and left > 0 and stay < STAY and pool_held(pg, number) + need > quota:
        got = shed_of(pg, ctx, number, number)
        if got == 0:
            break
        if got < 0:
            stay += 1
        left -= 1


def pool_make_room(pg, ctx, number, coming, pages):
    """Before so many pages of an area are stored, and owned: as many as have to leave for them. `coming`: the one, 0:
    several. The caller is in the area.

    As in the simulator, who leaves is asked before who comes is inserted. How large its record will be is not known
    yet: to a policy it is one of the mean, else it counts whole.
    """
    stack: cython.int = zcache_enter(pg)
    need: int64_t
    most: int64_t
    left: int64_t = pages + MORE
    got: int64_t
    stay: cython.int = 0
    if stack < 0:
        return
    quota_make_room(pg, ctx, number, pages)
    if (pg.policy.of != cython.NULL or pg.weights) and not (
        coming != 0 and pg.policy.of != cython.NULL and policy_has(pg, coming)
    ):
        most = policy_room(pool_limit(pg, pg.pool_hard))
        need = cython.cast(int64_t, 1) << pg.blocks[number].shift
        if pg.policy.of != cython.NULL:
            need = policy_mean(pg)
        need = room_for(need, pages, most)
        if load64(cython.address(pg.pool_bytes)) + need > pool_limit(pg, pg.pool_soft):
            most -= packs_dead(pg)
        while left > 0 and stay < STAY and pool_live(pg) + need > most:
            got = shed_next(pg, ctx, coming, number)
            if got == 0:
                break
            if got < 0:
                stay += 1
            left -= 1
        while load64(cython.address(pg.pool_bytes)) + need > pool_limit(pg, pg.pool_soft):
            if clean_ram(pg, ctx) <= 0:
                break
    zcache_leave(pg, stack)
