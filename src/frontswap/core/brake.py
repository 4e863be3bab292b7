"""The brake: when memory runs short, the limit is lowered at once, by a thread that needs no Python.

The limit of "auto" is memory/pressure.py's affair, which sees more, and is the only one to raise it. But it needs the
interpreter's lock, and a C function may keep that while somebody else fills the cgroup. So this thread looks at the
same figures: what is used in each group that has a limit, and what the machine has available. When half of what is to
be kept free has gone, it takes what is missing off the limit, evicts with the others until that holds, and has zcache
take less, or nothing, meanwhile (`brake_level`). It tells Python, which goes on from there.

It sleeps in poll(2) on what the kernel wakes it by where it does: a PSI trigger, cgroup v1's memory.pressure_level. It
looks all the same, the more often the less is left: a group may be full before anybody has waited in it, and an
ordinary user's PSI speaks every two seconds.

What it needs in an emergency it has: its descriptors are open (an open() is charged to the group), and guarded as all
of ours; nothing here allocates.

Races: what the control plane has told it changes under arena_lock, inside the gate, and so do its descriptors: a fork
finds all of it whole. The limit is changed by whoever comes, as always (core/resize.py); it only ever lowers it.
"""

import cython
from cython.cimports.frontswap.core.gate import gate_enter, gate_leave
from cython.cimports.frontswap.core.keeper import guard, guarded_call, unguard
from cython.cimports.frontswap.core.layout import (
    BRAKE_FDS,
    C_BRAKES,
    MAX_SOURCES,
    PRESSURE_CRITICAL,
    PRESSURE_LOW,
    PRESSURE_MEDIUM,
    PRESSURE_NONE,
    brake_p,
    pager_p,
    source_p,
)
from cython.cimports.frontswap.core.resize import (
    LIMIT_PINNED,
    limit_change,
    limit_charged,
    limit_least,
    limit_shed,
    page_most_for,
)
from cython.cimports.frontswap.core.uapi import (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    O_CLOEXEC,
    O_NONBLOCK,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
    POLLIN,
    POLLPRI,
    SYS_pread64,
    SYS_read,
    add64,
    clock_ns,
    close,
    eventfd,
    int64_t,
    load64,
    loadi,
    lock,
    open,
    poll,
    pollfd,
    pthread_join,
    sleep_on,
    store64,
    storei,
    unlock,
    wake,
    write,
)
from cython.cimports.libc.stdio import snprintf
from cython.cimports.libc.stdlib import strtoll
from cython.cimports.libc.string import memcpy, strlen, strncmp

UNKNOWN = 1 << 62
TEXT = cython.declare(cython.int, 12288)  # a memory.stat has 2 to 4 KiB
SOONEST = cython.declare(int64_t, 10000000)  # nanoseconds between two looks
LATEST = cython.declare(int64_t, 100000000)
RATE = cython.declare(int64_t, 4)  # bytes per nanosecond that others may take
AGAIN = cython.declare(int64_t, 100000000)  # nanoseconds until a limit that was refused is tried again
REOPEN = cython.declare(int64_t, 1000000000)  # and until files that could not be read are opened anew
QUIET = cython.declare(int64_t, 1000000000)  # and between calls that are passed on though nothing is short
BATCHES = cython.declare(cython.int, 16)  # that are evicted between two looks
WORTH = cython.declare(int64_t, 1 << 20)  # bytes that are worth a lower limit


# --- what is decided -----------------------------------------------------------------------------


def cut_of(free, spare):
    """Bytes that the limit is too large by, where `spare` are to be free: none, as long as half of them are."""
    return 0 if free >= spare // 2 else spare - free


def level_of(free, spare):
    """How short memory is: what zcache goes by."""
    if free >= spare // 2:
        return PRESSURE_NONE
    if free >= spare // 4:
        return PRESSURE_LOW
    return PRESSURE_MEDIUM if free >= spare // 8 else PRESSURE_CRITICAL


# --- what is read --------------------------------------------------------------------------------


def sum_of(text, names):
    """The sum of the numbers in lines "name number" or "name: number" with one of these names (a blank behind each);
    -1: none of them is there.
    """
    at: cython.p_const_char = text
    name: cython.p_const_char
    length: cython.size_t
    n: cython.size_t
    found: int64_t = -1
    while at[0] != 0:
        length = 0
        while at[length] != 0 and at[length] != ord(b" ") and at[length] != ord(b":") and at[length] != ord(b"\n"):
            length += 1
        name = names
        while name[0] != 0:
            n = 0
            while name[n] != ord(b" ") and name[n] != 0:
                n += 1
            if n == length and n > 0 and strncmp(at, name, n) == 0 and at[length] != ord(b"\n") and at[length] != 0:
                found = max(found, 0) + strtoll(at + length + 1, cython.NULL, 10)
            name += n
            while name[0] == ord(b" "):
                name += 1
        at += length
        while at[0] != 0 and at[0] != ord(b"\n"):
            at += 1
        if at[0] != 0:
            at += 1
    return found


def text_of(fd, text, most):
    """A file of the kernel's, from its beginning, with a 0 at its end; its length, -1: it cannot be read."""
    done: int64_t = 0
    got: cython.long
    while done < most - 1:
        got = guarded_call(SYS_pread64, fd, cython.cast(cython.long, text) + done, most - 1 - done, done)
        if got < 0:
            return -1
        if got == 0:
            break
        done += got
    text[done] = 0
    return done


def source_free(s, bound, used, free):
    """Bytes that may be taken yet, of a cgroup or the machine; UNKNOWN if it does not say. Descriptors of its files."""
    text: cython.char[12288]
    left: int64_t = s.most
    more: int64_t
    # Somebody may have lowered it since Python has looked. A group without one says "max".
    if s.bound[0] != 0 and text_of(bound, text, TEXT) > 0 and ord(b"0") <= text[0] <= ord(b"9"):
        left = min(left, strtoll(text, cython.NULL, 10))
    if s.used[0] != 0:
        if text_of(used, text, TEXT) <= 0 or not ord(b"0") <= text[0] <= ord(b"9"):
            return UNKNOWN
        left -= strtoll(text, cython.NULL, 10)
        if left >= s.spare:
            return left  # and there is no need to know what of it the kernel would give back
    if text_of(free, text, TEXT) <= 0:
        return left if s.used[0] != 0 else UNKNOWN
    more = sum_of(text, s.names)
    if more < 0:
        return left if s.used[0] != 0 else UNKNOWN
    return left + more * s.unit


# --- descriptors ---------------------------------------------------------------------------------


def kept_open(path, flags):
    """A guarded descriptor, or -1."""
    fd: cython.int = -1
    if path[0] != 0:
        fd = open(path, flags | O_CLOEXEC)
    return guard(fd) if fd >= 0 else -1


def kept_close(fd):
    """The end of kept_open()."""
    if fd[0] >= 0:
        unguard(fd[0])
    fd[0] = -1


def psi_open(b):
    """Have the kernel call when somebody waits for memory: in the group if it may be asked, else on the machine."""
    i: cython.int
    fd: cython.int
    length: cython.size_t = strlen(b.trigger) + 1
    for i in range(2):
        if b.psi[i][0] == 0:
            continue
        fd = open(b.psi[i], O_RDWR | O_NONBLOCK | O_CLOEXEC)
        if fd < 0:
            continue
        if write(fd, b.trigger, length) >= 0:
            return guard(fd)
        close(fd)
    return -1


def level_open(b):
    """Have cgroup v1 call when it has to reclaim: the descriptor to wait for, or -1."""
    line: cython.char[64]
    length: cython.int
    event: cython.int
    level: cython.int
    control: cython.int
    done: cython.bint = False
    if b.level_file[0] == 0:
        return -1
    event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if event < 0:
        return -1
    level = open(b.level_file, O_RDONLY | O_CLOEXEC)
    control = open(b.control_file, O_WRONLY | O_CLOEXEC)
    if level >= 0 and control >= 0:
        length = snprintf(line, 64, "%d %d low", event, level)
        done = write(control, line, length) == length
    if level >= 0:
        close(level)
    if control >= 0:
        close(control)
    if not done:
        close(event)
        return -1
    return guard(event)


def brake_open(pg):
    """Open what the brake has been told to look at. Inside the gate: a fork finds all descriptors, or none."""
    b: brake_p = cython.address(pg.brake)
    i: cython.int
    brake_close(pg)
    lock(cython.address(pg.arena_lock))
    b.opened = b.serial
    memcpy(b.sources, b.wanted, cython.sizeof(b.sources))
    b.count = b.wanted_count
    unlock(cython.address(pg.arena_lock))
    # Those that no source needs, too: 0 is the program's stdin, and brake_close() closes what is not negative.
    for i in range(BRAKE_FDS):
        b.fds[i] = -1
    for i in range(b.count):
        b.fds[3 * i] = kept_open(b.sources[i].bound, O_RDONLY)
        b.fds[3 * i + 1] = kept_open(b.sources[i].used, O_RDONLY)
        b.fds[3 * i + 2] = kept_open(b.sources[i].free, O_RDONLY)
    b.fds[3 * MAX_SOURCES] = psi_open(b)
    b.fds[3 * MAX_SOURCES + 1] = level_open(b)
    b.called_by = CALLED_BY_PSI if b.fds[3 * MAX_SOURCES] >= 0 else 0
    if b.fds[3 * MAX_SOURCES + 1] >= 0:
        b.called_by |= CALLED_BY_LEVEL
    b.is_open = True
    b.reopen = clock_ns() + REOPEN


def brake_close(pg):
    """The end of brake_open()."""
    i: cython.int
    if pg.brake.is_open:
        for i in range(BRAKE_FDS):
            kept_close(cython.address(pg.brake.fds[i]))
        pg.brake.is_open = False
        pg.brake.called_by = 0


# --- what is done --------------------------------------------------------------------------------


def brake_pull(pg, cut):
    """Take bytes off the limit, this process' part of them; False: it is as it was."""
    b: brake_p = cython.address(pg.brake)
    charged: int64_t = limit_charged(pg)
    least: int64_t = max(limit_least(pg), b.least)
    target: int64_t
    error: cython.int
    # Others of the run have brakes too. If one of those does nothing, the rest is missing at the next look again.
    if b.others > 0:
        cut = cython.cast(int64_t, cython.cast(cython.double, cut) * charged / (charged + b.others))
    target = max(charged - cut, least)
    if target > load64(cython.address(pg.limit)) - WORTH or clock_ns() < b.again:
        return False
    error = limit_change(pg, target, min(page_most_for(target), pg.max_page), pg.allocate_most)
    if error == LIMIT_PINNED:
        # Pins may take half: so far, then.
        target = 2 * load64(cython.address(pg.pinned)) + pg.limit - pg.budget + WORTH
        if target < load64(cython.address(pg.limit)) - WORTH:
            error = limit_change(pg, target, min(page_most_for(target), pg.max_page), pg.allocate_most)
    if error:
        b.again = clock_ns() + AGAIN
        return False
    add64(cython.address(pg.counters[C_BRAKES]), 1)
    return True


def brake_tell(b):
    """Wake who waits for it in Python."""
    add64(cython.address(b.notes), 1)
    wake(cython.address(b.news))


def brake_turn(pg):
    """Look once, and do what follows; nanoseconds until the next look. Signals are blocked, and nothing is held."""
    b: brake_p = cython.address(pg.brake)
    s: source_p
    i: cython.int
    free: int64_t
    cut: int64_t = 0
    pause: int64_t = LATEST
    level: cython.int = PRESSURE_NONE
    lost: cython.bint = False
    short: cython.bint = False
    gate_enter(pg)
    if not b.is_open or b.opened != b.serial or (b.lost and clock_ns() >= b.reopen):
        brake_open(pg)
    for i in range(b.count):
        s = cython.address(b.sources[i])
        free = source_free(s, b.fds[3 * i], b.fds[3 * i + 1], b.fds[3 * i + 2])
        b.free[i] = free
        if free == UNKNOWN:
            lost = True  # its group is gone, or somebody has closed what we had open by a raw system call
            continue
        short = short or free < s.spare
        cut = max(cut, cut_of(free, s.spare))
        level = max(level, level_of(free, s.spare))
        pause = min(pause, max((free - s.spare // 2) // RATE, SOONEST))
        # What Python has not seen yet: see GROWTH in memory/pressure.py.
        if free < b.seen[i] - b.growth:
            brake_tell(b)
            b.seen[i] = free
        b.seen[i] = max(b.seen[i], free)
    b.lost = lost
    # Cgroup v1 calls whenever it gives page cache back, as for a neighbour who reads a large file again and again: only
    # as news when there is less than there should be, or once a second.
    if b.called and (short or clock_ns() >= b.quiet):
        b.called = False
        b.quiet = clock_ns() + QUIET
        brake_tell(b)
    gate_leave(pg)
    if level != loadi(cython.address(pg.brake_level)):
        storei(cython.address(pg.brake_level), level)
        wake(cython.address(pg.writeback_event))
        wake(cython.address(pg.reclaim_event))
    if cut > 0 and brake_pull(pg, cut):
        b.pulled = True
        brake_tell(b)
    if not b.pulled or not loadi(cython.address(pg.registered)):
        return pause
    for i in range(BATCHES):
        if load64(cython.address(pg.used)) <= pg.budget:
            b.pulled = False
            return 0
        if not limit_shed(pg):
            wake(cython.address(pg.writeback_event))
            return SOONEST // 10
    return 0


def brake_heard(pg, timeout):
    """Sleep for so many milliseconds, or until the kernel calls: True then."""
    b: brake_p = cython.address(pg.brake)
    fds: pollfd[2]
    value: int64_t = 0
    fds[0].fd = b.fds[3 * MAX_SOURCES]
    fds[0].events = POLLPRI
    fds[1].fd = b.fds[3 * MAX_SOURCES + 1]
    fds[1].events = POLLIN
    fds[0].revents = fds[1].revents = 0
    if poll(fds, 2, timeout) <= 0:
        return False
    if fds[1].revents:
        guarded_call(SYS_read, fds[1].fd, cython.cast(cython.long, cython.address(value)), 8, 0)
    if (fds[0].revents | fds[1].revents) & ~(POLLIN | POLLPRI):
        # The group is gone, or somebody else has the number: without that one from now on.
        gate_enter(pg)
        if fds[0].revents & ~POLLPRI:
            kept_close(cython.address(b.fds[3 * MAX_SOURCES]))
            b.called_by &= ~CALLED_BY_PSI
        if fds[1].revents & ~POLLIN:
            kept_close(cython.address(b.fds[3 * MAX_SOURCES + 1]))
            b.called_by &= ~CALLED_BY_LEVEL
        gate_leave(pg)
    return True


def brake_thread(argument):
    """Look, and look again, until the Memory ends."""
    pg: pager_p = cython.cast(pager_p, argument)
    b: brake_p = cython.address(pg.brake)
    pause: int64_t
    while not loadi(cython.address(b.ended)):
        pause = brake_turn(pg)
        if pause == 0:
            continue
        if b.called_by == 0:
            sleep_on(cython.address(b.event), pause)
        elif brake_heard(pg, cython.cast(cython.int, (pause + 999999) // 1000000)):
            add64(cython.address(b.calls), 1)
            b.called = True
            # It may call on and on.
            sleep_on(cython.address(b.event), SOONEST)
    gate_enter(pg)
    brake_close(pg)
    gate_leave(pg)
    return cython.NULL


# --- its life ------------------------------------------------------------------------------------


def brake_set(pg, wanted):
    """What to look at from now on, of `wanted` (the fields that the control plane fills). Not inside the gate."""
    b: brake_p = cython.address(pg.brake)
    gate_enter(pg)
    lock(cython.address(pg.arena_lock))
    memcpy(b.wanted, wanted.wanted, cython.sizeof(b.wanted))
    memcpy(b.psi, wanted.psi, cython.sizeof(b.psi))
    memcpy(b.trigger, wanted.trigger, cython.sizeof(b.trigger))
    memcpy(b.level_file, wanted.level_file, cython.sizeof(b.level_file))
    memcpy(b.control_file, wanted.control_file, cython.sizeof(b.control_file))
    b.wanted_count = wanted.wanted_count
    b.thread = brake_thread
    b.least = wanted.least
    b.growth = wanted.growth
    b.serial += 1
    unlock(cython.address(pg.arena_lock))
    gate_leave(pg)


def brake_stop(pg):
    """End the thread, if there is one. Nobody allocates any more."""
    b: brake_p = cython.address(pg.brake)
    storei(cython.address(b.ended), 1)
    if loadi(cython.address(b.running)):
        wake(cython.address(b.event))
        pthread_join(b.id, cython.NULL)
        storei(cython.address(b.running), 0)
    else:
        brake_close(pg)


def brake_forked(pg):
    """In a forked child: no thread is here, and what the parent has open is of no use: what follows is the child's.

    It begins when Python says so. In the child of a C library that is never: nobody would raise the limit again.
    """
    b: brake_p = cython.address(pg.brake)
    store64(cython.address(b.begin), 0)
    b.called = False
    storei(cython.address(b.running), 0)
    storei(cython.address(b.event), 0)
    storei(cython.address(b.news), 0)
    storei(cython.address(pg.brake_level), PRESSURE_NONE)
    b.pulled = False
    b.others = 0
    brake_close(pg)
