"""Mappings without a reservation, before the registration: what they count as.

Allocators reserve addresses in advance (pyarrow's mimalloc 1 GiB at once), and while nothing is registered nobody is
told which of them are touched. As long as all of it fits in the limit with everything else, nobody asks. When it does
not, what the kernel has there may: then such mappings count as that, and as what may have been touched since.
A thread asks again before the rest of the limit can be full, and registers the arena when little is left.

Races: the kernel is asked while others touch, map and unmap, so what it says is true of the moment before it was asked,
or less than true of a later one. A mapping that ends meanwhile may count once more; one that begins is not there yet.
Everything but the question itself happens under arena_lock.
"""

import cython
from cython.cimports.frontswap.core.gate import gate_enter, gate_leave
from cython.cimports.frontswap.core.layout import pager_p
from cython.cimports.frontswap.core.presence import (
    BY_MINCORE,
    presence_bytes,
    presence_close,
    presence_open,
    presence_t,
)
from cython.cimports.frontswap.core.registration import arena_register
from cython.cimports.frontswap.core.uapi import (
    block_signals,
    casi,
    clock_ns,
    int64_t,
    load32,
    load64,
    loadi,
    lock,
    pthread_create,
    pthread_join,
    restore_signals,
    sigset_t,
    sleep_on,
    store64,
    storei,
    uint32_t,
    uint64_t,
    unlock,
    wake,
)
from cython.cimports.frontswap.core.uffd import say

LONG = cython.declare(int64_t, 1000000000000)  # nanoseconds in which any memory is full
KEPT = cython.declare(int64_t, 128 << 20)  # as a limit of "auto" keeps, at least
LOOKS = cython.declare(cython.int, 3)
FOREVER = cython.declare(int64_t, -1)
NEVER = cython.declare(int64_t, 1 << 62)
AGAIN = cython.declare(int64_t, 1000000000)  # nanoseconds until a registration that has failed is tried again


def kept(pg):
    """Bytes of the limit for what is touched while the thread gets no processor, and until the arena is registered.

    16 threads that do nothing but touch, on two processors with a load of 20, were faster by 75 to 400 MiB; a program
    that computes what it writes is not. And so much that a look, half a millisecond for each GiB, is twenty times
    shorter than the pause before the next one. What cannot spare as much counts whole.
    """
    return max(pg.budget // 8, KEPT, pg.loose * pg.touch_rate // 50)


def loose_counted(pg):
    """Bytes that they count as, under arena_lock: what was there at the last look, with what may be by now, and the
    rest that is kept. Or all, if nobody has looked.
    """
    if pg.loose_looked == 0:
        return pg.loose
    return min(
        pg.loose,
        pg.loose_there + min(clock_ns() - pg.loose_looked, LONG) * pg.touch_rate + kept(pg),
    )


def loose_left(pg):
    """Bytes of the limit that are free, by loose_counted(). Under arena_lock."""
    return pg.budget - load64(cython.address(pg.allocated)) - pg.spare_bytes - loose_counted(pg)


def loose_look(pg):
    """Ask the kernel; False: the arena is registered. Not inside the gate. Also if there is no such mapping yet: what
    is asked for may be the first.
    """
    s: presence_t
    number: uint32_t
    start: uint64_t
    end: uint64_t
    found: int64_t = 0
    now: int64_t = clock_ns()
    asked: cython.bint
    gate_enter(pg)
    asked = loadi(cython.address(pg.registered)) == 0
    if asked:
        # Without a descriptor: the program may be about to have the next number that is free.
        presence_open(cython.address(s), BY_MINCORE, False)
        number = 1
        while True:
            lock(cython.address(pg.arena_lock))
            while number <= pg.used_blocks and not (
                pg.blocks[number].loose and load32(cython.address(pg.blocks[number].live)) == 1
            ):
                number += 1
            if number > pg.used_blocks:
                break
            start = pg.blocks[number].base
            end = start + (cython.cast(uint64_t, pg.blocks[number].pages) << pg.blocks[number].shift)
            unlock(cython.address(pg.arena_lock))
            found += presence_bytes(cython.address(s), start, end)
            number += 1
        if now > pg.loose_looked:  # another look may have begun later and be over
            pg.loose_looked = now
            pg.loose_there = found
        unlock(cython.address(pg.arena_lock))
        presence_close(cython.address(s))
    gate_leave(pg)
    return asked


def loose_thread(argument):
    """Ask again in time, until the arena is registered."""
    pg: pager_p = cython.cast(pager_p, argument)
    rest: int64_t
    beside: int64_t
    left: int64_t
    full: cython.bint
    looked: cython.bint = False
    told: cython.bint = False
    while not loadi(cython.address(pg.loose_end)):
        gate_enter(pg)
        if loadi(cython.address(pg.registered)):  # inside: a registration that fails after all has taken it back
            gate_leave(pg)
            break
        lock(cython.address(pg.arena_lock))
        rest = kept(pg)
        beside = load64(cython.address(pg.allocated)) + pg.spare_bytes
        left = loose_left(pg)
        # By what was seen alone: we may have got no processor since.
        full = looked and beside + min(pg.loose, pg.loose_there) + rest > pg.budget
        if beside + pg.loose <= pg.budget:
            left = FOREVER  # all of it fits again: who maps more wakes us
            store64(cython.address(pg.loose_due), NEVER)
        elif left > 0 or looked:
            left = max(left, rest // 2) // pg.touch_rate
            store64(cython.address(pg.loose_due), clock_ns() + left)
        unlock(cython.address(pg.arena_lock))
        gate_leave(pg)
        if left == FOREVER or (not full and (left > 0 or looked)):
            sleep_on(cython.address(pg.loose_event), left)
            looked = False
        elif not looked:
            loose_look(pg)
            looked = True
        elif arena_register(pg) != 0:
            if not told:
                say(
                    "frontswap: more memory is in use than the limit allows, and it cannot be evicted: "
                    "the disk is full, or the kernel refuses; `frontswap doctor` looks at all that matters here\n"
                )
            told = True
            sleep_on(cython.address(pg.loose_event), AGAIN)
            looked = False
    return cython.NULL


def loose_resume(pg):
    """After an allocation or a change of the limit, without locks: if they count as what is there, a thread asks in
    time. In a forked child it is a new one. Without a thread the arena is registered now, if that can be.
    """
    short: cython.bint
    due: int64_t
    signals: sigset_t
    error: cython.int
    if pg.loose_looked == 0:
        return
    block_signals(cython.address(signals))
    gate_enter(pg)
    lock(cython.address(pg.arena_lock))
    short = False
    if loadi(cython.address(pg.registered)):
        pg.loose_looked = 0  # for good, as we are inside: nobody has to come here again
    else:
        short = load64(cython.address(pg.allocated)) + pg.spare_bytes + pg.loose > pg.budget
    due = clock_ns() + loose_left(pg) // pg.touch_rate
    unlock(cython.address(pg.arena_lock))
    gate_leave(pg)
    if short and casi(cython.address(pg.loose_asking), 0, 1):
        error = pthread_create(cython.address(pg.loose_id), cython.NULL, loose_thread, cython.cast(cython.p_void, pg))
        if error:
            storei(cython.address(pg.loose_asking), 0)
            arena_register(pg)
    elif short and due < load64(cython.address(pg.loose_due)):
        wake(cython.address(pg.loose_event))
    restore_signals(cython.address(signals))


def loose_stop(pg):
    """End the thread, if there is one. Nobody allocates any more."""
    storei(cython.address(pg.loose_end), 1)
    if loadi(cython.address(pg.loose_asking)):
        wake(cython.address(pg.loose_event))
        pthread_join(pg.loose_id, cython.NULL)
        storei(cython.address(pg.loose_asking), 0)


def loose_forked(pg):
    """In a forked child: no thread is here."""
    storei(cython.address(pg.loose_asking), 0)
    storei(cython.address(pg.loose_event), 0)
    store64(cython.address(pg.loose_due), NEVER)


def crossing(pg, looked):
    """All that is mapped does not fit: ask what of it is there, and register the arena if that does not either. 0: it
    may be tried again; or the errno of a registration that failed. The caller has signals blocked, and is not inside
    the gate. `*looked`: how often it has been asked. Not once alone: it is of no use to who gets no processor then.
    """
    if looked[0] < LOOKS and loose_look(pg):
        looked[0] += 1
        return 0
    return arena_register(pg)
