"""Locks of the program in memory of the heap: who waits for one keeps its page in RAM.

futex(2) looks at the word before it sleeps. Where that page has left since the thread has looked itself, the kernel
says EFAULT, and glibc ends the process ("The futex facility returned an unexpected error code"). So a page is pinned
before a thread waits for what lies in it; freeing the memory ends that. A lock that is free costs no pin.
"""

import cython
from cython.cimports.frontswap.core.got import got_add
from cython.cimports.frontswap.core.layout import DIRTY, HIGH_SHIFT, HOLES, SPLIT, STATE, pager_p
from cython.cimports.frontswap.core.pins import pager_pin
from cython.cimports.frontswap.core.seam import in_arena, pager_of
from cython.cimports.frontswap.core.spot import spot_find, spot_part, spot_t
from cython.cimports.frontswap.core.uapi import (
    EBUSY,
    block_signals,
    errno,
    load32,
    loadi,
    restore_signals,
    set_errno,
    sigset_t,
    uint32_t,
    uint64_t,
)


def hold(pg, address):
    """Pin the page of an address, if it is not; where nothing more may be pinned it stays as it is."""
    spot: spot_t
    state: uint32_t
    number: uint32_t
    page: uint32_t
    signals: sigset_t
    if not spot_find(pg, address, cython.address(spot)):
        return
    number = spot.number
    page = spot.page
    state = load32(cython.address(pg.pages[page].state))
    if (state & STATE) == SPLIT and spot_part(pg, cython.address(spot)):
        state = load32(cython.address(pg.pages[spot.page].state))
    if (state & STATE) == DIRTY and (state & HOLES) == 0 and (state >> HIGH_SHIFT) != 0:
        return
    # Not to be interrupted inside of the gate by a handler that faults: see arena.py.
    block_signals(cython.address(signals))
    pager_pin(pg, cython.address(pg.blocks[number]), page)
    restore_signals(cython.address(signals))


def keep(at, n):
    """hold() what lies in an arena that is registered, at both its ends; nothing for what does not. errno stays."""
    error: cython.int
    pg: pager_p
    if not in_arena(at, n):
        return
    error = errno
    pg = pager_of(cython.cast(uint64_t, at))
    if pg != cython.NULL and loadi(cython.address(pg.registered)) != 0:
        hold(pg, cython.cast(uint64_t, at))
        hold(pg, cython.cast(uint64_t, at) + n - 1)
    set_errno(error)


def our_mutex_lock(mutex):
    """pthread_mutex_lock(3)."""
    result: cython.int
    if not in_arena(mutex, MUTEX_BYTES):
        return real_mutex_lock(mutex)
    result = pthread_mutex_trylock(mutex)
    if result != EBUSY:
        return result
    keep(mutex, MUTEX_BYTES)
    return real_mutex_lock(mutex)


def our_mutex_timedlock(mutex, until):
    """pthread_mutex_timedlock(3)."""
    keep(mutex, MUTEX_BYTES)
    return real_mutex_timedlock(mutex, until)


def our_mutex_clocklock(mutex, clock, until):
    """pthread_mutex_clocklock(3)."""
    keep(mutex, MUTEX_BYTES)
    return real_mutex_clocklock(mutex, clock, until)


def our_cond_wait(at, mutex):
    """pthread_cond_wait(3)."""
    keep(at, CONDITION_BYTES)
    keep(mutex, MUTEX_BYTES)
    return real_cond_wait(at, mutex)


def our_cond_timedwait(at, mutex, until):
    """pthread_cond_timedwait(3)."""
    keep(at, CONDITION_BYTES)
    keep(mutex, MUTEX_BYTES)
    return real_cond_timedwait(at, mutex, until)


def our_cond_clockwait(at, mutex, clock, until):
    """pthread_cond_clockwait(3)."""
    keep(at, CONDITION_BYTES)
    keep(mutex, MUTEX_BYTES)
    return real_cond_clockwait(at, mutex, clock, until)


def our_sem_wait(at):
    """sem_wait(3)."""
    keep(at, SEMAPHORE_BYTES)
    return real_sem_wait(at)


def our_sem_timedwait(at, until):
    """sem_timedwait(3)."""
    keep(at, SEMAPHORE_BYTES)
    return real_sem_timedwait(at, until)


def our_sem_clockwait(at, clock, until):
    """sem_clockwait(3)."""
    keep(at, SEMAPHORE_BYTES)
    return real_sem_clockwait(at, clock, until)


def our_rdlock(at):
    """pthread_rwlock_rdlock(3)."""
    result: cython.int
    if not in_arena(at, RWLOCK_BYTES):
        return real_rdlock(at)
    result = pthread_rwlock_tryrdlock(at)
    if result != EBUSY:
        return result
    keep(at, RWLOCK_BYTES)
    return real_rdlock(at)


def our_wrlock(at):
    """pthread_rwlock_wrlock(3)."""
    result: cython.int
    if not in_arena(at, RWLOCK_BYTES):
        return real_wrlock(at)
    result = pthread_rwlock_trywrlock(at)
    if result != EBUSY:
        return result
    keep(at, RWLOCK_BYTES)
    return real_wrlock(at)


def our_barrier_wait(at):
    """pthread_barrier_wait(3)."""
    keep(at, BARRIER_BYTES)
    return real_barrier_wait(at)


def locks_begin():
    """With a heap in an arena, before the next got_patch_all()."""
    got_add(
        b"pthread_mutex_lock",
        cython.cast(cython.p_void, our_mutex_lock),
        cython.cast(pp_void, cython.address(real_mutex_lock)),
    )
    got_add(
        b"pthread_mutex_timedlock",
        cython.cast(cython.p_void, our_mutex_timedlock),
        cython.cast(pp_void, cython.address(real_mutex_timedlock)),
    )
    got_add(
        b"pthread_mutex_clocklock",
        cython.cast(cython.p_void, our_mutex_clocklock),
        cython.cast(pp_void, cython.address(real_mutex_clocklock)),
    )
    got_add(
        b"pthread_cond_wait",
        cython.cast(cython.p_void, our_cond_wait),
        cython.cast(pp_void, cython.address(real_cond_wait)),
    )
    got_add(
        b"pthread_cond_timedwait",
        cython.cast(cython.p_void, our_cond_timedwait),
        cython.cast(pp_void, cython.address(real_cond_timedwait)),
    )
    got_add(
        b"pthread_cond_clockwait",
        cython.cast(cython.p_void, our_cond_clockwait),
        cython.cast(pp_void, cython.address(real_cond_clockwait)),
    )
    got_add(b"sem_wait", cython.cast(cython.p_void, our_sem_wait), cython.cast(pp_void, cython.address(real_sem_wait)))
    got_add(
        b"sem_timedwait",
        cython.cast(cython.p_void, our_sem_timedwait),
        cython.cast(pp_void, cython.address(real_sem_timedwait)),
    )
    got_add(
        b"sem_clockwait",
        cython.cast(cython.p_void, our_sem_clockwait),
        cython.cast(pp_void, cython.address(real_sem_clockwait)),
    )
    got_add(
        b"pthread_rwlock_rdlock",
        cython.cast(cython.p_void, our_rdlock),
        cython.cast(pp_void, cython.address(real_rdlock)),
    )
    got_add(
        b"pthread_rwlock_wrlock",
        cython.cast(cython.p_void, our_wrlock),
        cython.cast(pp_void, cython.address(real_wrlock)),
    )
    got_add(
        b"pthread_barrier_wait",
        cython.cast(cython.p_void, our_barrier_wait),
        cython.cast(pp_void, cython.address(real_barrier_wait)),
    )
