"""The seam: who catches a fault and hands it to the pager.

Three sides, chosen when a Memory is made:

* SIGBUS (UFFD_FEATURE_SIGBUS): the faulting thread handles its own fault inside the signal handler;
  nothing has to be woken, which is most of the cost of a fault otherwise.
* A handler thread that reads events from the userfaultfd: for threads that must not take signals, and,
  with full privilege, for faults of system calls.

* SIGSEGV, where userfaultfd is forbidden: what is absent is PROT_NONE (core/protection.py), and the faulting thread
  handles its own fault, as with SIGBUS.

All call pager_fault().

The signal handler runs with all signals blocked (another handler that touches a page this thread is bringing in would
wait for itself), without SA_NODEFER (a fault inside it must kill) and without SA_ONSTACK (some threads have tiny
alternate stacks).
"""

import cython
from cython.cimports.frontswap.core.descriptors import descriptors_watch
from cython.cimports.frontswap.core.gate import gate_await
from cython.cimports.frontswap.core.got import got_patch_all
from cython.cimports.frontswap.core.keeper import own_table
from cython.cimports.frontswap.core.layout import SIDE_PROTECTION, SIDE_SIGBUS, SIDE_THREAD, pager_p
from cython.cimports.frontswap.core.pager import NO_DISK, NO_MEMORY, RETRY, SHUT, STRAY, pager_fault
from cython.cimports.frontswap.core.pieces import protect_lock
from cython.cimports.frontswap.core.signals import (
    chain,
    chain_lost,
    chain_to_default,
    end_by_sigbus,
    signals_take,
    signals_watch,
)
from cython.cimports.frontswap.core.spot import pager_fixed
from cython.cimports.frontswap.core.uapi import (
    EFAULT,
    EMFILE,
    ENOMEM,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    POLLIN,
    PTHREAD_CANCEL_DISABLE,
    SEGV_ACCERR,
    SIGBUS,
    SIGSEGV,
    UFFD_EVENT_PAGEFAULT,
    UFFD_PAGEFAULT_FLAG_WP,
    UFFD_PAGEFAULT_FLAG_WRITE,
    SYS_gettid,
    SYS_tgkill,
    addi,
    backoff,
    block_signals,
    cas64,
    casi,
    clock_ns,
    errno,
    fault_is_fetch,
    fault_is_write,
    getpid,
    int64_t,
    load64,
    loadi,
    lock,
    madvise,
    poll,
    pollfd,
    read,
    restore_signals,
    set_cancel,
    set_errno,
    sigset_t,
    storei,
    syscall,
    uffd_msg,
    uint32_t,
    uint64_t,
    unlock,
    wake,
)
from cython.cimports.frontswap.core.uffd import die, say, uffd_poison, uffd_wake


def pager_of(address):
    """The pager whose arena contains the address, or NULL."""
    i: cython.int
    for i in range(MAX_PAGERS):
        # The bounds are copies: the pager of another Memory may be freed while we look.
        if loadi(cython.address(taken[i])) == 2 and bases[i] <= address < ends[i]:
            return pagers[i]
    return cython.NULL


def touches_arena(address, n):
    """The slow half of in_arena()."""
    i: cython.int
    # A range that ends beyond all user addresses is the kernel's to refuse.
    if (
        n == 0
        or n >= cython.cast(uint64_t, 1) << 62
        or address + n <= cython.cast(uint64_t, load64(cython.address(arenas_low)))
    ):
        return False
    for i in range(MAX_PAGERS):
        if loadi(cython.address(taken[i])) == 2 and address < ends[i] and address + n > bases[i]:
            return True
    return False


def widen(low, high):
    """Have in_arena() look at these addresses. They stay: arenas come and go at much the same place."""
    old: int64_t
    while True:
        old = load64(cython.address(arenas_low))
        if (old != 0 and old <= cython.cast(int64_t, low)) or cas64(cython.address(arenas_low), old, low):
            break
    while True:
        old = load64(cython.address(arenas_high))
        if old >= cython.cast(int64_t, high) or cas64(cython.address(arenas_high), old, high):
            break


def out_of_memory_message(pg, result):
    """Say that nothing is left to do, and why."""
    why: cython.p_const_char = cython.cast(
        cython.p_const_char,
        "the limit is reached, the data does not compress into it, and this Memory has no swap file (swap=None)\n",
    )
    if result == NO_DISK:
        why = cython.cast(
            cython.p_const_char, "the disk of the swap file has no room for what was mapped without a reservation\n"
        )
    elif pg.file >= 0:
        why = cython.cast(cython.p_const_char, "the limit is reached, and the swap file takes no more\n")
    say(cython.cast(cython.p_const_char, "frontswap: SIGBUS: out of memory: "))
    say(why)


def store_lost(address):
    """Remember the last access that could not be served."""
    global last_lost
    last_lost = address


def again(address):
    """An access that comes again and again, and nothing to do each time: its page is absent, and its word says that it
    is not. That is a lost page; ending here is louder than going on for ever.
    """
    global again_at, again_times, again_since
    again_times = again_times + 1 if address == again_at else 0
    again_at = address
    if again_times % 1000000 == 1:
        # A million in ten seconds: nobody but a thread that does nothing else. Over days they are other threads'.
        if again_times > 1 and clock_ns() - again_since < cython.cast(int64_t, 10) * 1000000000:
            die("a page is not where its state says", EFAULT)
        again_times = 1
        again_since = clock_ns()


def is_ours(pg, number, info, context):
    """True if a signal is the fault of a page: a thread that touches one which is not there, or not yet open to it."""
    if number == SIGBUS:
        return pg.side == SIDE_SIGBUS
    return pg.side == SIDE_PROTECTION and info.si_code == SEGV_ACCERR and not fault_is_fetch(context)


def is_refused(address, write):
    """True if an access to a page that the program protects is not allowed, by what the kernel says now (5.14+), or as
    this thread had the same one just before: the first may have come while the page was being brought in for that.
    """
    page: uint64_t = address & ~cython.cast(uint64_t, 4095)
    thread: cython.long
    place: cython.pointer(uint64_t)
    if madvise(cython.cast(cython.p_void, page), 4096, MADV_POPULATE_WRITE if write else MADV_POPULATE_READ) == 0:
        return False
    thread = syscall(SYS_gettid)
    place = cython.address(asked[thread % 64])
    if place[0] == address:
        place[0] = 0
        return True
    place[0] = address  # another thread in the same place only has both try once more
    return False


def unresolved(number, info, context, address, result):
    """An access that nobody can serve ends in SIGBUS if a page is lost, else in what it is: a stray one."""
    lost: cython.bint = number == SIGSEGV and result != STRAY
    if address != last_lost:
        store_lost(address)
        if lost:
            chain_lost(info, context)
        else:
            chain(number, info, context)
    # Who had the signal before us has returned, and the access came again (Python's own handlers only note that there
    # was a signal): nobody else will end it.
    elif lost:
        end_by_sigbus()
    else:
        chain_to_default(number)


def on_fault(number, info, context):
    """The handler of SIGBUS and SIGSEGV."""
    saved: cython.int = errno
    cancel: cython.int
    address: uint64_t = cython.cast(uint64_t, info.si_addr)
    pg: pager_p = cython.NULL
    write: cython.bint
    result: cython.int
    if info.si_code > 0:
        pg = pager_of(address)
    if pg == cython.NULL or not is_ours(pg, number, info, context):
        chain(number, info, context)
    else:
        # Who is cancelled in here would be inside the gate for ever, and a page of his BUSY.
        cancel = set_cancel(PTHREAD_CANCEL_DISABLE)
        write = fault_is_write(context)
        result = pager_fault(pg, address, write)
        if result == SHUT:  # until what is being done is done: it may take long, and is none of again()'s affair
            lock(cython.address(protect_lock))
            unlock(cython.address(protect_lock))
        set_cancel(cancel)
        if result == NO_MEMORY or result == NO_DISK:
            out_of_memory_message(pg, result)
        if result < 0:
            unresolved(number, info, context, address, result)
        elif result == RETRY and number == SIGSEGV and pager_fixed(pg, address) and is_refused(address, write):
            chain(number, info, context)
        elif result == RETRY or result == SHUT:
            again(address)
        elif address == again_at:
            again(0)
    set_errno(saved)  # the interrupted code must not see ours


def stray(pg, address, times):
    """Handler-thread mode: an event whose address is in no array.

    Most often the access is over and its array gone: a wake-up is all. An access that comes again and
    again is a use after free: poisoning its address would hit the next array there, so it ends all.
    """
    uffd_wake(pg.fd, address & ~cython.cast(uint64_t, 4095), 4096)
    backoff(300)
    if times > 2000:
        die("access to an array that has been freed", EFAULT)


def shut(pg, address, times):
    """Handler-thread mode: an access to what is reserved, and not committed.

    Mostly it is being closed, and the kernel refuses the next try. (Not to be waited for with protect_lock: who has it
    may wait for us.) After seconds somebody has committed it who was not seen.
    """
    uffd_wake(pg.fd, address & ~cython.cast(uint64_t, 4095), 4096)
    backoff(300)
    if times > 50000:
        die("a page is not where its state says", EFAULT)


def unserviceable(pg, address, thread, result, times):
    """Handler-thread mode: end the access that cannot be served in SIGBUS, as the signal side does.

    Without UFFDIO_POISON (before 6.6) the signal is sent to the thread that waits, and the access happens again after
    it. Where the signal is blocked or its handler returns, nothing but the end of all keeps it from going on for ever.
    """
    page: uint64_t = address & ~cython.cast(uint64_t, 4095)
    if result == NO_MEMORY or result == NO_DISK:
        out_of_memory_message(pg, result)
    if pg.use_poison and uffd_poison(pg.fd, page, 4096) == 0:
        return
    if times > 20:
        die("page lost, and SIGBUS does not end the access to it", 0)
    syscall(SYS_tgkill, getpid(), thread, SIGBUS)
    uffd_wake(pg.fd, page, 4096)


def handler_thread(argument):
    """Reads fault events and answers them; two of these run, so that one may wait for a disk."""
    pg: pager_p = cython.cast(pager_p, argument)
    fds: pollfd[2]
    message: uffd_msg
    address: uint64_t
    write_access: cython.bint
    result: cython.int
    last: uint64_t = 0
    times: cython.int = 0
    own_table(pg)  # whatever the program closes, events are read; a machine that refuses it has the guard
    addi(cython.address(pg.handlers), 1)
    wake(cython.address(pg.handlers_event))
    gate_await(pg)
    while True:
        fds[0].fd = pg.fd
        fds[0].events = POLLIN
        fds[1].fd = pg.stop_fd
        fds[1].events = POLLIN
        poll(fds, 2, -1)
        if pg.closing:
            return cython.NULL
        while read(pg.fd, cython.address(message), cython.sizeof(message)) == cython.sizeof(message):
            if message.event != UFFD_EVENT_PAGEFAULT:
                continue
            address = message.pf_address
            write_access = (message.pf_flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP)) != 0
            result = pager_fault(pg, address, write_access)
            if result == RETRY:
                uffd_wake(pg.fd, address & ~cython.cast(uint64_t, 4095), 4096)
            elif result == SHUT:
                times = times + 1 if address == last else 0
                last = address
                shut(pg, address, times)
            elif result == STRAY:
                times = times + 1 if address == last else 0
                last = address
                stray(pg, address, times)
            elif result < 0:
                times = times + 1 if address == last else 0
                last = address
                unserviceable(pg, address, message.pf_thread, result, times)


def mappings_for(limit, page):
    """As many mappings as an arena may come to be split into: resident pages take two at most."""
    return 2 * (limit // page) + 64


def mappings_left(pg):
    """What one Memory may claim of the share of all, beside those that others may come to have. Under fork_lock."""
    i: cython.int
    left: int64_t = pg.mappings_share
    for i in range(MAX_PAGERS):
        if loadi(cython.address(taken[i])) == 2 and pagers[i].side == SIDE_PROTECTION and pagers[i] != pg:
            left -= pagers[i].mappings_most
    return left


def claim_mappings(pg, limit):
    """Choose the smallest page that goes with this limit; 0, or ENOMEM. Under fork_lock.

    Small pages are for small limits only: below 64 KiB they may take half of the share that is left, and leave the rest
    to others.
    """
    left: int64_t = mappings_left(pg)
    wanted: int64_t
    size: uint32_t = 4096
    while size <= pg.max_page:
        wanted = mappings_for(limit, size)
        if wanted <= (left if size >= 65536 else left // 2):
            pg.least_page = size
            pg.mappings_most = wanted
            return 0
        size *= 2
    return ENOMEM


def seam_claim(pg, limit):
    """Claim the mappings that a higher limit needs, with the pages that the Memory has; 0, or ENOMEM.

    What has been claimed is kept when the limit is lowered: it can always be raised again.
    """
    error: cython.int = 0
    wanted: int64_t = mappings_for(limit, pg.least_page)
    signals: sigset_t
    if pg.side != SIDE_PROTECTION or wanted <= pg.mappings_most:
        return 0
    block_signals(cython.address(signals))
    lock(cython.address(fork_lock))
    if wanted <= mappings_left(pg):
        pg.mappings_most = wanted
    else:
        error = ENOMEM
    unlock(cython.address(fork_lock))
    restore_signals(cython.address(signals))
    return error


def seam_limit_most(pg):
    """The highest limit that there are mappings for now, with the pages that the Memory has."""
    left: int64_t
    signals: sigset_t
    if pg.side != SIDE_PROTECTION:
        return cython.cast(int64_t, 1) << 62
    block_signals(cython.address(signals))
    lock(cython.address(fork_lock))
    left = mappings_left(pg)
    unlock(cython.address(fork_lock))
    restore_signals(cython.address(signals))
    return (left - mappings_for(0, pg.least_page)) // 2 * pg.least_page


def seam_attach(pg, limit_later):
    """Publish a pager to the seam; 0, or an errno. The signal handler stays installed for good.

    `limit_later`: what its limit is expected to be raised to; the smallest page goes with that, if it can be had.
    Without the GIL, as seam_detach(): a handler of pthread_atfork may want it while a fork is on its way.
    """
    i: cython.int
    error: cython.int = 0
    signals: sigset_t
    signals_watch()
    descriptors_watch()
    block_signals(cython.address(signals))
    lock(cython.address(fork_lock))  # a fork on its way has not prepared it, and would end what it has not begun
    if pg.side != SIDE_THREAD:
        error = signals_take(SIGBUS, on_fault)
    if error == 0 and pg.side == SIDE_PROTECTION:
        error = signals_take(SIGSEGV, on_fault)
    if error == 0 and pg.side == SIDE_PROTECTION:
        while limit_later > pg.limit and claim_mappings(pg, limit_later) != 0:
            limit_later //= 2
        if limit_later <= pg.limit:
            error = claim_mappings(pg, pg.limit)
    if error == 0:
        error = EMFILE
        for i in range(MAX_PAGERS):
            if casi(cython.address(taken[i]), 0, 1):
                pagers[i] = pg
                bases[i] = pg.base
                ends[i] = pg.base + pg.size
                widen(bases[i], ends[i])
                storei(cython.address(taken[i]), 2)
                error = 0
                break
    unlock(cython.address(fork_lock))
    restore_signals(cython.address(signals))
    if error == 0:
        got_patch_all()
    return error


def seam_closing(pg):
    """A Memory begins to close: it is in no fork from here on.

    Not in the middle of one: the child, which has its arrays by then, would find it closing and register nothing, and
    what was evicted would read as zeros there.
    """
    signals: sigset_t
    block_signals(cython.address(signals))
    lock(cython.address(fork_lock))
    pg.closing = 1
    unlock(cython.address(fork_lock))
    restore_signals(cython.address(signals))


def seam_detach(pg):
    """No fault and no fork finds this pager any more. No array of it is left, or they are unmapped."""
    i: cython.int
    signals: sigset_t
    block_signals(cython.address(signals))
    lock(cython.address(fork_lock))  # a fork on its way has it in its hands
    for i in range(MAX_PAGERS):
        if loadi(cython.address(taken[i])) == 2 and pagers[i] == pg:
            storei(cython.address(taken[i]), 0)
    unlock(cython.address(fork_lock))
    restore_signals(cython.address(signals))
