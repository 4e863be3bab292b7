"""fork: the child has the arrays, with the bytes of this moment, and both go their own ways.

The kernel copies arena, tables and pool (copy on write), but not the registration: without care an evicted page reads
as zeros in the child. So (DESIGN.md 5.4):

prepare  The gate closes: no page is BUSY, no lock is held, no segment is on its way to the disk. The child's swap file
         is made and its space reserved, and a pipe whose writing end is the child's lease on our slots.
parent   The gate opens. Slots that were in use stay as they are until the lease ends: see leases.
child    A userfaultfd of its own; every CLEAN page is write-protected again, since fork clears the protection in the
         child; new pages go to its own file, what was on disk is read from the parent's. Threads are not here: faults
         do without them, and the next allocation, or Python's own hook, starts new ones.

Outside of a fork all mappings are MADV_DONTFORK: a child made by _Fork or a raw clone, in which nothing of this has
run, has no arrays at all, and a touch is SIGSEGV, not zeros.
"""

import cython
from cython.cimports.frontswap.core.atfork import at_fork
from cython.cimports.frontswap.core.brake import brake_forked
from cython.cimports.frontswap.core.gate import gate_close, gate_open
from cython.cimports.frontswap.core.got import got_add
from cython.cimports.frontswap.core.keeper import guard, keepers_forked, unguard
from cython.cimports.frontswap.core.layout import (
    BUSY,
    CLEAN,
    DENSE_EMPTY,
    MAX_LEASES,
    MAX_STACKS,
    SIDE_PROTECTION,
    SIDE_THREAD,
    SPLIT,
    STATE,
    block_p,
    first_part,
    parts_of,
)
from cython.cimports.frontswap.core.leases import leases_check, slots_in_use
from cython.cimports.frontswap.core.loose import loose_forked
from cython.cimports.frontswap.core.pieces import held_run, protect_lock
from cython.cimports.frontswap.core.protection import protection_room
from cython.cimports.frontswap.core.region import region_keep, region_open, region_register
from cython.cimports.frontswap.core.registration import threads_resume
from cython.cimports.frontswap.core.seam import MAX_PAGERS, fork_lock, pagers, taken
from cython.cimports.frontswap.core.signals import signals_forked
from cython.cimports.frontswap.core.swapfile import file_place, slots_add, slots_for, swap_file_make, swap_grow
from cython.cimports.frontswap.core.uapi import (
    EACCES,
    EFAULT,
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    EINTR,
    EMFILE,
    ENOMEM,
    EPERM,
    MADV_DOFORK,
    MADV_DONTFORK,
    O_CLOEXEC,
    PTHREAD_CANCEL_DISABLE,
    block_signals,
    close,
    errno,
    eventfd,
    load32,
    loadi,
    lock,
    lock_reset,
    madvise,
    pipe2,
    restore_signals,
    set_cancel,
    set_errno,
    sigset_t,
    storei,
    storep,
    uint32_t,
    uint64_t,
    unlock,
)
from cython.cimports.frontswap.core.uffd import die, say
from cython.cimports.libc.string import strerror

CHILD_MAPPINGS = cython.declare(cython.int, 1024)
signals = cython.declare(sigset_t)
cancel = cython.declare(cython.int)


def inherit(pg, advice):
    """MADV_DOFORK or MADV_DONTFORK for all that a Memory has mapped. The tables of its backends, which come and go
    while a process forks, are always inherited.
    """
    i: cython.int
    for i in range(pg.mappings):
        madvise(cython.cast(cython.p_void, pg.mapped[i]), pg.lengths[i], advice)


def what_is_refused(error):
    """What a child would need and cannot have, as a part of a sentence."""
    if error == EACCES or error == EPERM:
        return cython.cast(
            cython.p_const_char,
            "/proc/self/mem, through which evicted pages come back (has this process changed its user?)",
        )
    if error == ENOMEM and generation:
        return cython.cast(
            cython.p_const_char, "mappings (vm.max_map_count), of which each generation of children has more"
        )
    return cython.cast(cython.p_const_char, "a swap file for what the child may write")


def ready(pg):
    """Make the child's swap file and its lease on our slots; 0 or an errno: then the fork fails (rule 2).

    Both sides may write every page anew: the child needs room for all that it may hold, and so do we, beside the
    slots that the lease keeps.
    """
    error: cython.int
    own: cython.int
    used: uint32_t
    blocked: uint32_t
    ends: cython.int[2]
    leases_check(pg)
    used = slots_in_use(pg)
    own = file_place(pg)
    if own < 0 or pg.lease_count == MAX_LEASES:
        return EMFILE
    # Both sides keep room for what is there now. What has been reserved for more (ahead of touches, or for what was
    # freed since) is asked for again when it is needed: behind the closed gate nobody relies on it.
    pg.reserved_for = pg.allocated
    # What is not registered yet reserves its room when it is.
    pg.child_slots = slots_for(pg, pg.allocated, pg.budget) if loadi(cython.address(pg.registered)) else 0
    error = swap_file_make(pg, pg.child_slots, cython.address(pg.child_file))
    if error == 0 and used:
        blocked = used + pg.deferred_slots
        error = swap_grow(pg, slots_for(pg, pg.allocated, pg.budget) + blocked)
        if error == 0 and pipe2(ends, O_CLOEXEC) != 0:
            error = errno
        if error == 0:
            pg.lease_read = guard(ends[0])
            pg.lease_write = guard(ends[1])
            pg.leased_slots = blocked
    pg.child_own = own
    return error


def prepare_one(pg):
    """Nobody is at work on a page when this returns; what the child needs is there, or pg.fork_error says why not."""
    fd: cython.int
    gate_close(pg)
    pg.child_file = pg.lease_read = pg.lease_write = -1
    pg.fork_error = 0
    # A Memory that is being closed stays behind. No other begins to close before this fork is over: seam_closing().
    pg.inheriting = not pg.closing
    if not pg.inheriting:
        return
    inherit(pg, MADV_DOFORK)
    if pg.side == SIDE_PROTECTION and loadi(cython.address(pg.registered)):
        # The child needs one of its own, and could not say that it has none.
        fd = region_open(pg)
        pg.fork_error = -fd if fd < 0 else 0
        if fd >= 0:
            close(fd)
        # What the arena of a child has been in pieces is for ever (protection_join()). One that is at the end of its
        # mappings could bring nothing in, whatever it evicts; with some left it goes on, with fewer pages in RAM.
        if pg.fork_error == 0 and generation:
            pg.fork_error = protection_room(CHILD_MAPPINGS)
    if pg.file >= 0 and pg.fork_error == 0:
        pg.fork_error = ready(pg)


def fork_prepare():
    """pthread_atfork: before."""
    global signals, cancel
    i: cython.int
    mask: sigset_t
    state: cython.int = set_cancel(PTHREAD_CANCEL_DISABLE)
    # As fork() itself will, of stdio's list of streams, and before the gates are closed: who has it may be waiting for
    # a stream (fflush(NULL)), and who has that, in the middle of a transfer into an array, would wait at a gate.
    streams_lock()
    # A handler that faults would wait at the gate for its own thread.
    block_signals(cython.address(mask))
    lock(cython.address(fork_lock))
    lock(cython.address(protect_lock))  # what is pinned for mprotect() is marked so, in the child, too
    signals = mask
    cancel = state
    for i in range(MAX_PAGERS):
        if loadi(cython.address(taken[i])) == 2:
            prepare_one(pagers[i])


def parent_one(pg):
    """In the parent: as before, and the slots that the child may read are kept for it."""
    if pg.inheriting:
        inherit(pg, MADV_DONTFORK)
    unguard(pg.child_file)
    if pg.lease_write >= 0:
        unguard(pg.lease_write)
        # Kept when the fork failed, too: it has no other end then, and the next look finds that out.
        pg.forks += 1
        pg.leases[pg.lease_count].fork = pg.forks
        pg.leases[pg.lease_count].fd = pg.lease_read
        pg.lease_count += 1
    gate_open(pg)


def fork_parent():
    """pthread_atfork: after, in the parent."""
    i: cython.int
    mask: sigset_t = signals
    state: cython.int = cancel
    for i in range(MAX_PAGERS):
        if loadi(cython.address(taken[i])) == 2:
            if pagers[i].inheriting and pagers[i].fork_error:
                forked_error[0] = pagers[i].fork_error
            parent_one(pagers[i])
    unlock(cython.address(protect_lock))
    unlock(cython.address(fork_lock))
    streams_unlock()
    restore_signals(cython.address(mask))
    set_cancel(state)


def protect_block(pg, block):
    """Protect the CLEAN pages of an array. Of a reserved mapping only what is committed is looked at."""
    at: uint64_t = block.base
    stop: uint64_t
    if not block.reserved:
        protect_clean(pg, block, 0, block.pages)
        return
    while True:
        stop = held_run(pg, cython.address(at), block.base + block.bytes)
        if stop == 0:
            return
        protect_clean(
            pg,
            block,
            cython.cast(uint32_t, (at - block.base) >> block.shift),
            cython.cast(uint32_t, (stop - block.base) >> block.shift),
        )
        at = stop


def protect_clean(pg, block, first, end):
    """Protect the CLEAN pages among some of an array, run by run."""
    i: uint32_t
    start: uint32_t = 0
    run: uint32_t = 0
    state: uint32_t
    part: uint32_t
    parts: block_p = cython.address(pg.blocks[block.parts])
    error: cython.int
    for i in range(first, end + 1):
        state = 0
        if i < end:
            state = load32(cython.address(pg.pages[block.first + i].state)) & STATE
            if state == BUSY:
                die("a page is owned by nobody in a forked child", EFAULT)
            if state == SPLIT:
                part = first_part(pg, block.first + i) - parts.first
                protect_clean(pg, parts, part, part + parts_of(pg, block.first + i))
        if state == CLEAN:
            if run == 0:
                start = i
            run += 1
        elif run:
            error = region_keep(
                pg,
                block.base + (cython.cast(uint64_t, start) << block.shift),
                cython.cast(uint64_t, run) << block.shift,
            )
            if error:
                die("write protection in a forked child", error)
            run = 0


def child_files(pg):
    """In the child: its own swap file, all of it free; the parent's is only read from now on."""
    i: cython.int
    for i in range(pg.lease_count):
        unguard(pg.leases[i].fd)  # on slots of the parent's that others read
    pg.lease_count = pg.forks = pg.deferred_slots = pg.leased_slots = 0
    unguard(pg.lease_read)
    if pg.child_file < 0:
        return
    pg.held[pg.own_file] = pg.lease_write
    pg.own_file = pg.child_own
    pg.files[pg.own_file] = pg.file = pg.child_file
    pg.slots = pg.free_slots_n = 0
    slots_add(pg, pg.child_slots)
    if pg.child_slots == 0:
        pg.reserved_for = 0


def child_one(pg):
    """In the child: give a Memory everything that fork does not."""
    i: cython.int
    error: cython.int = 0
    if pg.fork_error:
        if forked_here[0]:
            _exit(1)  # our_fork() tells the program
        die(what_is_refused(pg.fork_error), pg.fork_error)
    lock_reset(cython.address(pg.arena_lock))
    lock_reset(cython.address(pg.queue_lock))
    lock_reset(cython.address(pg.request_lock))
    lock_reset(cython.address(pg.log_lock))
    for i in range(MAX_STACKS):
        pg.stack_users[i] = 0
    # Nobody is inside, but who waits at the gate counts itself again and again, and the fork may have found it counted:
    # the next one to close the gate here would wait for it for ever.
    storei(cython.address(pg.inflight), 0)
    pg.requests_out = pg.requests_in
    pg.thread_count = pg.readahead_threads = pg.handlers = pg.writers_back = 0
    # Its thread may have been in the middle of a batch: it is the parent's, and these records stay as they are.
    storei(cython.address(pg.dense_turn), DENSE_EMPTY)
    loose_forked(pg)
    brake_forked(pg)
    storep(cython.address(pg.trace), cython.NULL)
    if pg.fd >= 0:
        unguard(pg.fd)
        pg.fd = -1
    child_files(pg)
    if pg.stop_fd >= 0:
        unguard(pg.stop_fd)
        pg.stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if pg.stop_fd < 0:
            die("eventfd in a forked child", errno)
        pg.stop_fd = guard(pg.stop_fd)
    if loadi(cython.address(pg.registered)):
        error = region_register(pg)
        if error:
            die("the descriptor that brings pages back, in a forked child", error)
        for i in range(1, pg.used_blocks + 1):
            if load32(cython.address(pg.blocks[i].live)) == 1:
                protect_block(pg, cython.address(pg.blocks[i]))
    inherit(pg, MADV_DONTFORK)
    lock_reset(cython.address(pg.gate_lock))
    storei(cython.address(pg.gate), 0)
    storei(cython.address(pg.threads_due), loadi(cython.address(pg.registered)))
    # Where another thread answers the faults, it must be there before the first one.
    if pg.side == SIDE_THREAD:
        error = threads_resume(pg)
        if error and pg.thread_count == 0:
            die("no handler thread in a forked child", error)


def fork_child():
    """pthread_atfork: after, in the child, before anything else there may touch an array."""
    global generation
    i: cython.int
    mask: sigset_t = signals
    state: cython.int = cancel
    generation += 1
    streams_reset()
    signals_forked()
    keepers_forked()
    for i in range(MAX_PAGERS):
        if loadi(cython.address(taken[i])) == 2:
            if pagers[i].inheriting:
                child_one(pagers[i])
            else:
                pagers[i].forked = 1
                storei(cython.address(taken[i]), 0)
        else:
            storei(cython.address(taken[i]), 0)
    lock_reset(cython.address(fork_lock))
    lock_reset(cython.address(protect_lock))
    restore_signals(cython.address(mask))
    set_cancel(state)


def our_fork():
    """fork(2), interposed: ENOMEM when the disk has no room for what the child may write (rule 2).

    A handler of pthread_atfork cannot refuse. The child ends at once then, and nobody hears of it; where libc forks by
    itself (daemon(), forkpty()) it ends with a message.
    """
    pid: cython.int
    forked_here[0] = 1
    forked_error[0] = 0
    pid = real_fork()
    forked_here[0] = 0
    if pid <= 0 or forked_error[0] == 0:
        return pid
    while waitpid(pid, cython.NULL, 0) < 0 and errno == EINTR:
        pass
    # ENOMEM is what fork() may say; people, with RAM to spare, want to know of the disk.
    say(cython.cast(cython.p_const_char, "frontswap: fork refused: "))
    say(what_is_refused(forked_error[0]))
    say(cython.cast(cython.p_const_char, ": "))
    say(strerror(forked_error[0]))
    say(cython.cast(cython.p_const_char, "\n"))
    set_errno(ENOMEM)
    return -1


at_fork(fork_prepare, fork_parent, fork_child)
got_add(b"fork", cython.cast(cython.p_void, our_fork), cython.cast(cython.pp_void, cython.address(real_fork)))
