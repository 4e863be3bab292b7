"""Slots of the swap file that forked children read: they are not used again while one of those lives.

A child reads what was on disk at the fork from its parent's file, and writes to one of its own. Each fork gives the
child (and its children, by inheritance) the writing end of a pipe. The kernel closes it when the last of them has
ended, exec'd or closed its Memory, however it came to that, and the parent finds the pipe hung up. So nobody counts
references in shared memory, and a child that is killed holds nothing.

A slot carries the number of forks there had been when it was taken, and, freed, when it was freed: the children of the
forks between read it. A slot that is used too early all the same (somebody has closed a child's descriptors behind our
back) is no wrong byte: the checksum of a record is in the page table, so the child's page is poisoned.
"""

import cython
from cython.cimports.frontswap.core.keeper import ours, unguard
from cython.cimports.frontswap.core.uapi import POLLHUP, POLLIN, poll, pollfd, storei, uint32_t


def slots_in_use(pg):
    """Slots of our own file that our own segments are in."""
    return pg.slots - pg.free_slots_n - pg.deferred_slots


def leased(pg, number):
    """True if a living child may read a slot that was freed at fork number `slot_freed`."""
    i: cython.int
    for i in range(pg.lease_count):
        if pg.slot_taken[number] < pg.leases[i].fork <= pg.slot_freed[number]:
            return True
    return False


def slot_free(pg, number):
    """Put a slot of our own file where the next segment finds it. The caller holds log_lock, or the gate is closed."""
    pg.free_slots[pg.free_slots_n] = number
    pg.free_slots_n += 1
    storei(cython.address(pg.no_slots), 0)


def leases_check(pg):
    """Forget the leases of children that have ended, and free the slots that waited for them.

    The caller holds log_lock, or the gate is closed.
    """
    i: cython.int = 0
    kept: uint32_t = 0
    number: uint32_t
    j: uint32_t
    fds: pollfd
    while i < pg.lease_count:
        fds.fd = pg.leases[i].fd
        fds.events = POLLIN
        fds.revents = 0
        # Nothing is ever written: it is readable only when it is hung up. A number that is another file's by now says
        # nothing: that lease does not end.
        if not ours(fds.fd):
            i += 1
        elif poll(cython.address(fds), 1, 0) == 1 and (fds.revents & POLLHUP) != 0:
            unguard(pg.leases[i].fd)
            pg.lease_count -= 1
            pg.leases[i] = pg.leases[pg.lease_count]
        else:
            i += 1
    for j in range(pg.deferred_slots):
        number = pg.deferred[j]
        if leased(pg, number):
            pg.deferred[kept] = number
            kept += 1
        else:
            slot_free(pg, number)
    pg.deferred_slots = kept
    if pg.lease_count == 0:
        pg.leased_slots = 0


def slot_give(pg, slot):
    """No record of ours is in a slot any more: free it, now or when no child reads it. The caller holds log_lock."""
    number: uint32_t = cython.cast(uint32_t, slot)
    if (slot >> FILE_SHIFT) != pg.own_file:
        return  # the parent's
    pg.slot_freed[number] = pg.forks
    if pg.lease_count and leased(pg, number):
        pg.deferred[pg.deferred_slots] = number
        pg.deferred_slots += 1
        return
    slot_free(pg, number)
