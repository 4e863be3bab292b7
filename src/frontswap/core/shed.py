"""Shedding by policy, in front of swap areas: the page that the pool's policy names is written to its slot.

Races. A victim is held by the policy no longer, and its page is owned only then: meanwhile somebody may load it (it
leaves all the same), free it (there is nothing to do), or store it again (the policy holds it again: it stays). Who
waits for it owns no page, so nobody who does can be waiting for him; nor does any owner of a page wait for room.
"""

import cython
from cython.cimports.frontswap.core.cleaner import clean_ram
from cython.cimports.frontswap.core.frontswap import frontswap_evacuate, frontswap_invalidate_page, page_poison
from cython.cimports.frontswap.core.layout import (
    BUSY,
    C_WRITTEN_BACK_BYTES,
    KIND,
    OUT,
    RECORD_LOG,
    STACK_ACTIVE,
    STATE,
    STREAM_DENSE,
    STREAM_POOL,
    UNTOLD,
    length_of,
    page_p,
)
from cython.cimports.frontswap.core.policy import policy_back, policy_has, policy_mean, policy_room, policy_victim
from cython.cimports.frontswap.core.segments import segment_close
from cython.cimports.frontswap.core.uapi import (
    ENOSPC,
    add64,
    addi,
    backoff,
    cas32,
    int64_t,
    load32,
    load64,
    loadi,
    store32,
    uint32_t,
)
from cython.cimports.frontswap.core.zcache import pool_limit

# Victims that one store sheds, beyond the pages that come: a limit that was lowered is for the writeback thread.
MORE = cython.declare(int64_t, 64)
STAY = cython.declare(cython.int, 16)  # victims that cannot leave: then nobody is asked any more


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


def shed_victim(pg, ctx, coming):
    """The policy's next victim leaves for its slot; the bytes of its record, 0: nobody is there, -1: it stays."""
    page: uint32_t = policy_victim(pg, coming)
    p: page_p = cython.address(pg.pages[page])
    state: uint32_t
    length: uint32_t
    kind: uint32_t = 0
    error: cython.int
    if page == 0:
        return 0
    state = page_own(pg, page)
    if (state & STATE) != OUT or (state & KIND) != RECORD_LOG or policy_has(pg, page):
        store32(cython.address(p.state), state)
        return -1
    length = length_of(p.where)
    error = frontswap_evacuate(pg, ctx, page, state | UNTOLD, cython.address(kind))
    if error < 0:
        # Its record cannot be used, see shed_coldest().
        frontswap_invalidate_page(pg, page, state)
        page_poison(pg, page)
        return length
    if error > 0:
        policy_back(pg, page)
        store32(cython.address(p.state), state)
        return -1
    add64(cython.address(pg.counters[C_WRITTEN_BACK_BYTES]), length)
    store32(cython.address(p.state), OUT | kind)
    return length


def shed_victims(pg, ctx):
    """Victims leave until the pool has its room or one segment's bytes are gone, and what is dead is cleaned.

    0; -1: nothing is to be done, ENOSPC: nobody could leave.
    """
    got: int64_t
    done: int64_t = 0
    stay: cython.int = 0
    turn: cython.int
    while (
        done < pg.segment_bytes
        and stay < STAY
        and load64(cython.address(pg.policy_bytes)) > policy_room(pool_limit(pg, pg.pool_hard))
    ):
        got = shed_victim(pg, ctx, 0)
        if got == 0:
            break
        if got < 0:
            stay += 1
        else:
            done += got
    if pool_limit(pg, pg.pool_hard) == 0:
        # Nothing may stay. A segment that is open would, and the cleaner would open another one.
        for turn in range(2):
            if pg.open_segment[STREAM_POOL if turn == 0 else STREAM_DENSE] != 0:
                segment_close(pg, STREAM_POOL if turn == 0 else STREAM_DENSE)
                done += 1
    for turn in range(2):
        if load64(cython.address(pg.pool_bytes)) <= pool_limit(pg, pg.pool_soft) or pool_limit(pg, pg.pool_hard) == 0:
            break
        got = clean_ram(pg)
        if got <= 0:
            break
        done += got
    if done > 0:
        return 0
    return ENOSPC if stay else -1


def pool_make_room(pg, ctx, coming, pages):
    """Before so many pages are stored, and owned: as many as have to leave for them. `coming`: the one, 0: several.

    As in the simulator, who leaves is asked before who comes is inserted. How large its record will be is not known
    yet: it counts as one of the mean.
    """
    number: cython.int = pg.zcache_number
    need: int64_t
    most: int64_t
    left: int64_t = pages + MORE
    got: int64_t
    stay: cython.int = 0
    if number < 0:
        return
    # As a store: unregistering waits for it, and the policy is there until then.
    addi(cython.address(pg.stack_users[number]), 1)
    if (
        loadi(cython.address(pg.stack_state[number])) == STACK_ACTIVE
        and pg.policy.of != cython.NULL
        and not (coming != 0 and policy_has(pg, coming))
    ):
        most = policy_room(pool_limit(pg, pg.pool_hard))
        need = policy_mean(pg) * pages
        if pages > 1 and need > most // 8:
            need = most // 8  # a batch does not empty the pool before it is there
        while left > 0 and stay < STAY and load64(cython.address(pg.policy_bytes)) + need > most:
            got = shed_victim(pg, ctx, coming)
            if got == 0:
                break
            if got < 0:
                stay += 1
            left -= 1
        while load64(cython.address(pg.pool_bytes)) + need > pool_limit(pg, pg.pool_soft):
            if clean_ram(pg) <= 0:
                break
    addi(cython.address(pg.stack_users[number]), -1)
