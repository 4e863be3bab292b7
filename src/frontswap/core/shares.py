"""Shares: what each swap area has of zcache's pool, its quota, and whose pages leave first when the pool is full.

What an area has is the records of its pages: with headers, without what is dead between them. Whoever appends or drops
one owns its page, and charges before, or uncharges after: so each is counted once, whoever races, and an area is never
charged less than it has. The cleaner moves records and changes nothing here.

A quota is what is charged at most (as memory.zswap.max of a cgroup): it holds at every moment.

Weights are asked when the pool is full. Who has most for its weight gives way, so nobody who has less than its share
(its weight of the weights of all who have something) does as long as somebody has more: one of those has more for its
weight. Source: client_over_quota() of Xen's tmem (xen/common/tmem.c).
"""

import cython
from cython.cimports.frontswap.core.layout import A_POOL_BYTES, area_p
from cython.cimports.frontswap.core.uapi import add64, cas64, int64_t, load64, loadi, uint32_t


def pool_charge(pg, page, bytes):
    """Before a record of an owned page is appended; False: its area's quota does not allow it."""
    area: area_p = cython.address(pg.areas[pg.pages[page].block])
    held: int64_t
    quota: int64_t
    while True:
        held = load64(cython.address(area.counters[A_POOL_BYTES]))
        quota = load64(cython.address(area.quota))  # each time, for it may have been changed
        if quota < 0:
            add64(cython.address(area.counters[A_POOL_BYTES]), bytes)
            return True
        if held + bytes > quota:
            return False
        if cas64(cython.address(area.counters[A_POOL_BYTES]), held, held + bytes):
            return True


def pool_uncharge(pg, page, bytes):
    """After a record of an owned page has been dropped, or could not be appended."""
    add64(cython.address(pg.areas[pg.pages[page].block].counters[A_POOL_BYTES]), -bytes)


def pool_held(pg, number):
    """Bytes that an area has in the pool."""
    return load64(cython.address(pg.areas[number].counters[A_POOL_BYTES]))


def pool_live(pg):
    """Bytes that all areas have in the pool."""
    total: int64_t = 0
    i: uint32_t
    for i in range(1, pg.used_blocks + 1):
        total += pool_held(pg, i)
    return total


def share_below(pg, number):
    """Has an area less than its share of what all areas with a weight have? Those of weight 0 always have."""
    total: int64_t = 0
    weights: int64_t = 0
    held: int64_t
    weight: int64_t
    i: uint32_t
    for i in range(1, pg.used_blocks + 1):
        held = pool_held(pg, i)
        weight = loadi(cython.address(pg.areas[i].weight))
        if held > 0 and weight > 0:
            total += held
            weights += weight
    weight = loadi(cython.address(pg.areas[number].weight))
    return weight == 0 or pool_held(pg, number) * weights < weight * total


def share_most(pg):
    """The area that gives way: of those whose pages have slots, the one that has most for its weight; 0: none.

    Those of weight 0 are the last, the largest of them first.
    """
    best: uint32_t = 0
    held: int64_t
    most: int64_t = 0
    weight: int64_t = 0
    own: int64_t
    i: uint32_t
    for i in range(1, pg.used_blocks + 1):
        held = pool_held(pg, i)
        if held <= 0 or pg.areas[i].fd < 0:
            continue
        own = loadi(cython.address(pg.areas[i].weight))
        if own == 0:
            if weight == 0 and held > most:
                best = i
                most = held
        elif weight == 0 or held * weight > most * own:
            best = i
            most = held
            weight = own
    return best
