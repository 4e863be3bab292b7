"""The write budget: so many bytes may be written to the swap file in each period, for the sake of flash.

As long as it lasts the pool is as large as balance.py wants it. When it has been spent the pool has what it would have
without a swap file: nearly all of the limit. What does not fit there either is written all the same: no page is lost,
and no program ends, for a budget.

Source: `writeback_limit` of Documentation/admin-guide/blockdev/zram.rst, which a person fills up again; there what is
above it stays in RAM that has no limit.

Races: bytes are counted by whoever has written them. Only who does the writeback thread's work looks at the clock and
changes what the pool may take, under arena_lock, as a change of the limit does.
"""

import cython
from cython.cimports.frontswap.core.contexts import pool_share
from cython.cimports.frontswap.core.gate import gate_enter, gate_leave
from cython.cimports.frontswap.core.layout import hooks_clock
from cython.cimports.frontswap.core.uapi import (
    add64,
    int64_t,
    load64,
    loadi,
    lock,
    store64,
    storei,
    unlock,
)


def budget_set(pg, bytes, period):
    """From now on `bytes` for each period of so many nanoseconds; 0: no budget. Signals are blocked."""
    gate_enter(pg)
    lock(cython.address(pg.arena_lock))
    store64(cython.address(pg.write_budget), bytes)
    store64(cython.address(pg.write_left), bytes)
    store64(cython.address(pg.write_period), period)
    store64(cython.address(pg.write_since), hooks_clock(pg))
    storei(cython.address(pg.write_spent), 0)
    pool_share(pg)
    unlock(cython.address(pg.arena_lock))
    gate_leave(pg)


def budget_spend(pg, bytes):
    """So many bytes have been written."""
    add64(cython.address(pg.write_left), -bytes)


def is_over(pg):
    """True if this period has ended."""
    return hooks_clock(pg) - load64(cython.address(pg.write_since)) >= load64(cython.address(pg.write_period))


def is_spent(pg):
    """True if nothing is left of the budget that there is."""
    return load64(cython.address(pg.write_budget)) != 0 and load64(cython.address(pg.write_left)) <= 0


def budget_look(pg):
    """Has a period ended, or the budget been spent? Inside the gate, owning nothing."""
    past: int64_t
    if load64(cython.address(pg.write_budget)) == 0 or (
        not is_over(pg) and is_spent(pg) == (loadi(cython.address(pg.write_spent)) != 0)
    ):
        return
    lock(cython.address(pg.arena_lock))
    if pg.write_budget and is_over(pg):
        past = hooks_clock(pg) - pg.write_since
        store64(cython.address(pg.write_since), pg.write_since + past // pg.write_period * pg.write_period)
        store64(cython.address(pg.write_left), pg.write_budget)
    storei(cython.address(pg.write_spent), is_spent(pg))
    pool_share(pg)
    unlock(cython.address(pg.arena_lock))


def budget_left(pg):
    """Bytes of this period that may be written yet; -1: there is no budget."""
    budget: int64_t = load64(cython.address(pg.write_budget))
    if budget == 0:
        return -1
    return budget if is_over(pg) else max(load64(cython.address(pg.write_left)), 0)
