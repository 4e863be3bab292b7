"""Our descriptors, and what is left when somebody closes them all the same.

A userfaultfd that is closed takes its region with it: evicted pages then read as zeros, without any fault. So the
descriptors of a Memory are *guarded*: they lie high up, they are known by number and file, and the interposed
close(), close_range(), closefrom(), dup2() and dup3() (core/descriptors.py) leave them alone.

A system call that is made past libc is not seen. Behind the guard stands a *keeper*: a thread with a descriptor table
of its own, which nobody else can close. The region stays registered through it. A call on a descriptor that is gone,
or whose number another file has got, is made by the keeper in our place. It costs two changes of threads, and is never
an operation on somebody else's file. Without a keeper it is EBADF, which ends the process with a message.

The race that is left: a raw close() and an open() of the same number between the look and the call. For userfaultfd
the call then fails and is made again by the keeper; for the swap file nothing is cheaper than to look each time.

All of it is async-signal-safe.
"""

import cython
from cython.cimports.frontswap.core.layout import MAX_FILES
from cython.cimports.frontswap.core.uapi import (
    CLONE_FILES,
    CLOSE_RANGE_UNSHARE,
    EBADF,
    EINVAL,
    EMFILE,
    ENOTTY,
    F_DUPFD_CLOEXEC,
    RLIMIT_NOFILE,
    SYS_close,
    SYS_close_range,
    SYS_ioctl,
    block_signals,
    c_fstat,
    c_rlimit,
    c_stat,
    casi,
    close,
    errno,
    fcntl,
    getrlimit,
    int32_t,
    ioctl,
    loadi,
    lock,
    pthread_create,
    pthread_join,
    restore_signals,
    set_errno,
    sigset_t,
    sleep_on,
    storei,
    syscall,
    uint64_t,
    unlock,
    unshare,
    wake,
)
from cython.cimports.libc.string import memset

# Above what a loop "for fd in range(3, 256)" closes, below where the kernel's table takes more than 8 KiB.
HIGH = cython.declare(cython.int, 768)


# --- the guard -----------------------------------------------------------------------------------


def find_guard(fd):
    """The guard of a number, or -1."""
    i: cython.int
    if fd < 0 or loadi(cython.address(guards_low)) == 0 or fd < loadi(cython.address(guards_low)):
        return -1
    for i in range(loadi(cython.address(guards_end))):
        if loadi(cython.address(guards[i].number)) == fd + 1:
            return i
    return -1


def same_file(fd, g):
    """True if the descriptor is open on the file it was guarded for. (A userfaultfd has an inode of its own since
    5.12; before that any anonymous inode passes.)
    """
    found: c_stat
    return c_fstat(fd, cython.address(found)) == 0 and found.st_dev == g.device and found.st_ino == g.inode


def ours(fd):
    """True if a descriptor is one of ours, now. One that lost its number to another file is not."""
    i: cython.int = find_guard(fd)
    return i >= 0 and same_file(fd, cython.address(guards[i]))


def next_ours(first, last):
    """The lowest of our descriptors in [first, last], or -1."""
    i: cython.int
    fd: cython.int
    best: cython.int = -1
    if last < cython.cast(cython.uint, loadi(cython.address(guards_low))):
        return -1
    for i in range(loadi(cython.address(guards_end))):
        fd = loadi(cython.address(guards[i].number)) - 1
        if fd < 0 or not first <= cython.cast(cython.uint, fd) <= last or (0 <= best < fd):
            continue
        if same_file(fd, cython.address(guards[i])):
            best = fd
    return best


def guard(fd):
    """Move a descriptor to a high number and guard it there; the number it has now.

    Where nothing can be had up there (ulimit -n) it stays where it is, and is guarded as well.
    """
    i: cython.int
    low: cython.int = HIGH
    high: cython.int
    found: c_stat
    limit: c_rlimit
    lowest: int32_t
    if getrlimit(RLIMIT_NOFILE, cython.address(limit)) == 0 and limit.rlim_cur < cython.cast(uint64_t, HIGH + 64):
        low = cython.cast(cython.int, limit.rlim_cur) // 4 * 3
    while True:
        high = fcntl(fd, F_DUPFD_CLOEXEC, low)
        if high < 0 or find_guard(high) < 0:
            break
        # A number that a descriptor of ours had and has lost: its keeper still goes by it.
        close(high)
        low = high + 1
    if high >= 0:
        close(fd)
        fd = high
    if c_fstat(fd, cython.address(found)) != 0:
        return fd
    for i in range(MOST_GUARDED):
        if loadi(cython.address(guards[i].number)) == 0 and casi(cython.address(guards[i].number), 0, -1):
            guards[i].device = found.st_dev
            guards[i].inode = found.st_ino
            while True:
                lowest = loadi(cython.address(guards_low))
                if (lowest != 0 and lowest <= fd) or casi(cython.address(guards_low), lowest, fd):
                    break
            while True:
                lowest = loadi(cython.address(guards_end))
                if lowest > i or casi(cython.address(guards_end), lowest, i + 1):
                    break
            storei(cython.address(guards[i].number), fd + 1)
            break
    return fd


def unguard(fd):
    """Close a descriptor that guard() has returned, unless its number is another file's by now."""
    i: cython.int = find_guard(fd)
    j: cython.int
    own: cython.bint
    k: keeper_p = keeper_of(fd)
    if i < 0:
        if fd >= 0:
            close(fd)
        return
    if k != cython.NULL:
        kept_call(SYS_close, fd, 0, 0, 0)
        for j in range(KEPT):
            if k.fds[j] == fd:
                k.fds[j] = -1
    own = same_file(fd, cython.address(guards[i]))
    storei(cython.address(guards[i].number), 0)
    if own:
        close(fd)


# --- calls on guarded descriptors ----------------------------------------------------------------


def guarded_call(number, fd, a, b, c):
    """The system call `number` on a guarded file, made by the keeper if the number is not the file's any more."""
    i: cython.int = find_guard(fd)
    if i < 0 or same_file(fd, cython.address(guards[i])):
        return syscall(number, fd, a, b, c)
    return kept_call(number, fd, a, b, c)


def guarded_ioctl(fd, request, argument):
    """ioctl() of a userfaultfd; made again by the keeper when the failure may be due to a lost descriptor."""
    error: cython.int
    i: cython.int
    result: cython.int = ioctl(fd, request, argument)
    if result == 0:
        return 0
    error = errno
    if error != EBADF and error != ENOTTY and error != EINVAL:
        i = find_guard(fd)
        if i < 0 or same_file(fd, cython.address(guards[i])):
            set_errno(error)
            return result
    elif keeper_of(fd) == cython.NULL:
        set_errno(error)
        return result
    return cython.cast(
        cython.int,
        kept_call(SYS_ioctl, fd, cython.cast(cython.long, request), cython.cast(cython.long, argument), 0),
    )


def kept_call(number, fd, a, b, c):
    """Have the keeper make a system call on its own copy of a descriptor; EBADF if there is no keeper."""
    k: keeper_p = keeper_of(fd)
    signals: sigset_t
    result: cython.long
    error: cython.int
    if k == cython.NULL:
        set_errno(EBADF)
        return -1
    block_signals(cython.address(signals))
    lock(cython.address(k.lock))
    k.number = number
    k.arguments[0] = fd
    k.arguments[1] = a
    k.arguments[2] = b
    k.arguments[3] = c
    storei(cython.address(k.asked), 1)
    wake(cython.address(k.event))
    while loadi(cython.address(k.asked)) != 2:
        sleep_on(cython.address(k.answer), -1)
    result = k.result
    error = k.error
    unlock(cython.address(k.lock))
    restore_signals(cython.address(signals))
    set_errno(error)
    return result


# --- the keeper ----------------------------------------------------------------------------------


def keeper_of(fd):
    """The keeper that has a copy of a descriptor, or NULL."""
    i: cython.int
    j: cython.int
    if fd < 0:
        return cython.NULL
    for i in range(MOST_KEEPERS):
        if loadi(cython.address(keepers[i].state)) == KEEPER_READY:
            for j in range(KEPT):
                if keepers[i].fds[j] == fd:
                    return cython.address(keepers[i])
    return cython.NULL


def kept_fds(pg, fds, leases):
    """The descriptors that a pager cannot do without, KEPT of them, -1 where there is none.

    Not what comes later: the reading ends of the leases that forks make. A lost one is a lease that does not end.
    """
    i: cython.int
    fds[0] = pg.fd
    fds[1] = pg.stop_fd
    for i in range(MAX_FILES):
        fds[2 + i] = pg.files[i]
        fds[2 + MAX_FILES + i] = pg.held[i] if leases else -1


def own_table(pg):
    """Give the calling thread a descriptor table of its own: the pager's userfaultfd, event and swap files."""
    fds: cython.int[KEPT]
    kept_fds(pg, fds, False)
    return own_table_of(fds)


def own_table_of(fds):
    """The same with KEPT descriptors, of which some may be -1; 0 or an errno.

    Nothing else may stay in it: the other end of a pipe that the program closes would wait for ever.
    """
    i: cython.int
    j: cython.int
    fd: cython.int
    sorted_fds: cython.int[KEPT]
    first: cython.long = 0
    for i in range(KEPT):
        fd = fds[i]
        j = i
        while j > 0 and sorted_fds[j - 1] > fd:
            sorted_fds[j] = sorted_fds[j - 1]
            j -= 1
        sorted_fds[j] = fd
    # Two ways to the same: the seccomp profiles of containers forbid unshare() as a whole. Out of the way of all
    # numbers, so that the kernel copies the whole table.
    if (
        syscall(SYS_close_range, cython.cast(cython.long, 0x7FFFFFFF), 0x7FFFFFFF, CLOSE_RANGE_UNSHARE) != 0
        and unshare(CLONE_FILES) != 0
    ):
        return errno
    for i in range(KEPT):
        if sorted_fds[i] < 0:
            continue
        if sorted_fds[i] > first:
            syscall(SYS_close_range, first, cython.cast(cython.long, sorted_fds[i] - 1), 0)
        first = sorted_fds[i] + 1
    syscall(SYS_close_range, first, cython.cast(cython.long, 0xFFFFFFFF), 0)
    return 0


def keeper_thread(argument):
    """Holds descriptors, and makes system calls on them for who has lost them."""
    k: keeper_p = cython.cast(keeper_p, argument)
    error: cython.int = own_table_of(k.fds)
    storei(cython.address(k.state), KEEPER_REFUSED if error else KEEPER_READY)
    wake(cython.address(k.answer))
    while error == 0:
        sleep_on(cython.address(k.event), -1)
        if loadi(cython.address(k.asked)) == 1:
            k.result = syscall(k.number, k.arguments[0], k.arguments[1], k.arguments[2], k.arguments[3])
            k.error = errno
            storei(cython.address(k.asked), 2)
            wake(cython.address(k.answer))
        if loadi(cython.address(k.ended)):
            break
    return cython.NULL


def keeper_start(pg):
    """Start the keeper of a pager whose descriptors are open (and guarded), if it has none; 0 or an errno.

    Call it where the region is registered, again in a forked child, and before what may lose them goes on. When this
    machine gives a thread no table of its own, that is no error: the guard is all there is then.
    """
    i: cython.int
    k: keeper_p = cython.NULL
    signals: sigset_t
    error: cython.int
    for i in range(MOST_KEEPERS):
        if keepers[i].pg == pg:
            return 0
    for i in range(MOST_KEEPERS):
        if casi(cython.address(keepers[i].state), KEEPER_FREE, KEEPER_STARTING):
            k = cython.address(keepers[i])
            break
    if k == cython.NULL:
        return EMFILE
    k.pg = pg
    kept_fds(pg, k.fds, True)
    k.event = k.ended = k.asked = k.answer = 0
    block_signals(cython.address(signals))
    error = pthread_create(cython.address(k.thread), cython.NULL, keeper_thread, k)
    restore_signals(cython.address(signals))
    if error:
        k.pg = cython.NULL
        storei(cython.address(k.state), KEEPER_FREE)
        return error
    while loadi(cython.address(k.state)) == KEEPER_STARTING:
        sleep_on(cython.address(k.answer), -1)
    return 0


def keeper_stop(pg):
    """End the keeper of a pager, if it has one; no fault of it may be on its way, and its threads have ended."""
    i: cython.int
    k: keeper_p
    for i in range(MOST_KEEPERS):
        k = cython.address(keepers[i])
        if loadi(cython.address(k.state)) >= KEEPER_READY and k.pg == pg:
            storei(cython.address(k.ended), 1)
            wake(cython.address(k.event))
            pthread_join(k.thread, cython.NULL)
            k.pg = cython.NULL
            storei(cython.address(k.state), KEEPER_FREE)


def keepers_forked():
    """In a forked child: no keeper is here. The guards hold: the child has the same descriptors."""
    memset(keepers, 0, cython.sizeof(keepers))
