"""The pool's reclaim policy, where there is one (zcache:policy=): what it is told, and whom it names.

The same classes as in the simulator (frontswap.policies), and the same meaning: a page of which zcache takes a record
is inserted, or used if it had one before; a load that leaves the record there is a use; who is invalidated, taken by an
exclusive load, or gone elsewhere is removed; and who leaves because the pool is full is its victim, whom it may
remember. Pages of one word (same-filled) cost nothing and never leave, so it does not know them.

Who tells it owns the page (BUSY), so it hears of one page in the order of what happens. It names one that nobody owns:
shed.py, or victims.py, owns that page then, and looks whether it is still there and not told of again.

Behind the memory door a page that is written to loses its record, and is in use: the policy goes on to hold it. Its use
was told when it came; when it is stored again nothing is. Named meanwhile, there is nothing to leave: it is forgotten.

It has its own lock, a leaf. Its arrays lie where no fault of ours can be, and a forked child of a Memory has its own.
"""

import cython
from cython.cimports.frontswap.core.balance import pool_wanted
from cython.cimports.frontswap.core.layout import UNTOLD
from cython.cimports.frontswap.core.shares import pool_live
from cython.cimports.frontswap.core.uapi import int64_t, load64, lock, uint32_t, unlock


def policy_room(bytes):
    """Of what the pool may take, what may live: the rest is for what is dead until it is cleaned, and what is open."""
    return bytes - bytes // 8


def held(pg):
    """Bytes of all that the policy knows of; behind the memory door with what is dead of them, a sixteenth or so."""
    return load64(cython.address(pg.pool_bytes)) if pg.areas == cython.NULL else pool_live(pg)


def measure(pg):
    """Tell the policy how many pages fit, by the mean record; there is one more than it holds. Under policy_lock."""
    count: int64_t = pg.policy.count(pg.policy.of)
    mean: int64_t = held(pg) // (count + 1)
    most: int64_t = pool_wanted(pg) if pg.areas == cython.NULL else pg.pool_hard
    fit: int64_t = policy_room(most) // (mean if mean > 0 else 1)
    if fit < 1:
        fit = 1
    if fit > pg.max_pages:
        fit = pg.max_pages
    # Each time would cost, and no policy goes by the last page.
    if count == 0 or fit > pg.policy_fit + pg.policy_fit // 8 or fit < pg.policy_fit - pg.policy_fit // 8:
        pg.policy_fit = fit
        pg.policy.resize(pg.policy.of, cython.cast(uint32_t, fit))


def policy_stored(pg, page):
    """zcache has a record of an owned page. One that had another before has been used: of a Memory, when it came."""
    lock(cython.address(pg.policy_lock))
    if pg.policy.holds(pg.policy.of, page):
        if pg.areas != cython.NULL:
            pg.policy.hit(pg.policy.of, page)
    else:
        measure(pg)
        pg.policy.insert(pg.policy.of, page)
    unlock(cython.address(pg.policy_lock))


def policy_loaded(pg, page):
    """An owned page has been loaded, and its record stays. (Not held: it is about to leave, and does.)"""
    lock(cython.address(pg.policy_lock))
    if pg.policy.holds(pg.policy.of, page):
        pg.policy.hit(pg.policy.of, page)
    unlock(cython.address(pg.policy_lock))


def policy_dropped(pg, page, state):
    """The record of an owned page, whose word was `state`, is no more."""
    if (state & UNTOLD) == 0:
        policy_gone(pg, page)


def policy_gone(pg, page):
    """An owned page is not in the pool any more, or has become one of one word; nothing of it is remembered."""
    lock(cython.address(pg.policy_lock))
    pg.policy.remove(pg.policy.of, page)
    unlock(cython.address(pg.policy_lock))


def policy_has(pg, page):
    """Does the policy hold a page?"""
    held: cython.bint
    lock(cython.address(pg.policy_lock))
    held = pg.policy.holds(pg.policy.of, page)
    unlock(cython.address(pg.policy_lock))
    return held


def policy_victim(pg, coming):
    """The page that leaves next, which the policy holds no longer; 0: there is none. `coming`: for whom, 0: nobody."""
    page: uint32_t = 0
    lock(cython.address(pg.policy_lock))
    if pg.policy.count(pg.policy.of) != 0:
        if coming != 0 and pg.policy.holds(pg.policy.of, coming):
            coming = 0
        page = pg.policy.victim(pg.policy.of, coming)
    unlock(cython.address(pg.policy_lock))
    return page


def policy_back(pg, page):
    """An owned page that the policy has named cannot leave: it is as if it had come now."""
    lock(cython.address(pg.policy_lock))
    if not pg.policy.holds(pg.policy.of, page):
        pg.policy.insert(pg.policy.of, page)
    unlock(cython.address(pg.policy_lock))


def policy_mean(pg):
    """Bytes of a record, on average; 0 without any."""
    mean: int64_t = 0
    lock(cython.address(pg.policy_lock))
    if pg.policy.count(pg.policy.of) != 0:
        mean = held(pg) // pg.policy.count(pg.policy.of)
    unlock(cython.address(pg.policy_lock))
    return mean
