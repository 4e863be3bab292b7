"""Calls of libc whose arguments the kernel, or libc itself, uses where they lie, for memory of an arena.

With a heap in the arena (core/heap.py) these are no arrays any more: lists of descriptors that somebody waits for,
arguments of a program to be started, stacks. What is waited for is copied out and back. What execve() reads is brought
in when it was not there, and the call made again: it has done nothing then. A stack must never leave RAM, for the
kernel puts a signal's frame there and the handler of our own faults runs on it: another one stands for it.
"""

import cython
from cython.cimports.frontswap.core.bounce import map_bytes
from cython.cimports.frontswap.core.calls import our_fwrite
from cython.cimports.frontswap.core.got import got_add
from cython.cimports.frontswap.core.seam import in_arena, on_fault
from cython.cimports.frontswap.core.signals import taken, with_segv
from cython.cimports.frontswap.core.uapi import (
    EFAULT,
    ENOMEM,
    SA_SIGINFO,
    SIGBUS,
    SIGSEGV,
    backoff,
    c_sigaction,
    casi,
    errno,
    loadi,
    munmap,
    set_errno,
    set_sigaction,
    sigfillset,
    storei,
    uint64_t,
)
from cython.cimports.libc.string import memcpy, memset

# --- waiting ---------------------------------------------------------------------------------------


def outside(at, n, filled):
    """Memory that the kernel may be handed instead, or NULL and ENOMEM."""
    copy: cython.p_void = map_bytes(n)
    if copy == cython.NULL:
        set_errno(ENOMEM)
    elif filled:
        memcpy(copy, at, n)
    return copy


def polled(fds, copy, n, found):
    """The end of a poll() of a copy. Another thread may have changed what is asked for: only answers go back."""
    error: cython.int = errno
    i: uint64_t
    if found >= 0:
        for i in range(n):
            cython.cast(polls, fds)[i].revents = cython.cast(polls, copy)[i].revents
    munmap(copy, n * POLL_BYTES)
    set_errno(error)


def our_poll(fds, n, timeout):
    """poll(2)."""
    copy: cython.p_void
    found: cython.int
    if n > MOST_WAITS or not in_arena(fds, n * POLL_BYTES):
        return real_poll(fds, n, timeout)
    copy = outside(fds, n * POLL_BYTES, True)
    if copy == cython.NULL:
        return -1
    found = real_poll(copy, n, timeout)
    polled(fds, copy, n, found)
    return found


def our_poll_chk(fds, n, timeout, size):
    """__poll_chk, which poll() is in a program with _FORTIFY_SOURCE."""
    if n > size // POLL_BYTES:
        return real_poll_chk(fds, n, timeout, size)
    return our_poll(fds, n, timeout)


def our_ppoll(fds, n, timeout, mask):
    """ppoll(2)."""
    copy: cython.p_void
    found: cython.int
    if n > MOST_WAITS or not in_arena(fds, n * POLL_BYTES):
        return real_ppoll(fds, n, timeout, mask)
    copy = outside(fds, n * POLL_BYTES, True)
    if copy == cython.NULL:
        return -1
    found = real_ppoll(copy, n, timeout, mask)
    polled(fds, copy, n, found)
    return found


def waited(events, copy, n, found):
    """The end of an epoll_wait() for a copy."""
    error: cython.int = errno
    if found > 0:
        memcpy(events, copy, found * EPOLL_BYTES)
    munmap(copy, n * EPOLL_BYTES)
    set_errno(error)


def our_epoll_wait(fd, events, n, timeout):
    """epoll_wait(2)."""
    copy: cython.p_void
    found: cython.int
    if n <= 0 or not in_arena(events, n * EPOLL_BYTES):
        return real_epoll_wait(fd, events, n, timeout)
    copy = outside(events, n * EPOLL_BYTES, False)
    if copy == cython.NULL:
        return -1
    found = real_epoll_wait(fd, copy, n, timeout)
    waited(events, copy, n, found)
    return found


def our_epoll_pwait(fd, events, n, timeout, mask):
    """epoll_pwait(2)."""
    copy: cython.p_void
    found: cython.int
    if n <= 0 or not in_arena(events, n * EPOLL_BYTES):
        return real_epoll_pwait(fd, events, n, timeout, mask)
    copy = outside(events, n * EPOLL_BYTES, False)
    if copy == cython.NULL:
        return -1
    found = real_epoll_pwait(fd, copy, n, timeout, mask)
    waited(events, copy, n, found)
    return found


# --- starting programs -------------------------------------------------------------------------------


def touch_strings(all):
    """Bring in what of these strings lies in an arena; True if something does."""
    global read_all
    found: cython.bint = False
    i: uint64_t = 0
    # The kernel has answered EFAULT: near NULL it is right.
    if cython.cast(uint64_t, all) < 4096:
        return False
    found = in_arena(all, 8)
    while all[i] != cython.NULL:
        if in_arena(cython.cast(cython.p_void, cython.address(all[i])), 8):
            found = True
        if in_arena(all[i], 1):
            read_all += length(all[i])
            found = True
        i += 1
    return found


def touch_arguments(path, argv, env, turn):
    """After EFAULT: True if what the call reads has been brought in, and it may be made again.

    In the child of a vfork() too, whose memory is its parent's: nothing is allocated. Its signals are its own, and
    Python's subprocess has set them all to the default by now: a fault would end it.
    """
    global read_all
    found: cython.bint = False
    action: c_sigaction
    before: c_sigaction
    before_segv: c_sigaction
    own: cython.bint = not taken(SIGBUS)
    if turn == EXEC_TURNS:
        return False
    if own:
        memset(cython.address(action), 0, cython.sizeof(action))
        action.sa_sigaction = on_fault
        action.sa_flags = SA_SIGINFO
        sigfillset(cython.address(action.sa_mask))
        set_sigaction(SIGBUS, cython.address(action), cython.address(before))
        set_sigaction(SIGSEGV, cython.address(action) if with_segv else cython.NULL, cython.address(before_segv))
    if in_arena(path, 1):
        read_all += length(path)
        found = True
    found = touch_strings(argv) or found
    found = touch_strings(env) or found
    if own:
        set_sigaction(SIGBUS, cython.address(before), cython.NULL)
        if with_segv:
            set_sigaction(SIGSEGV, cython.address(before_segv), cython.NULL)
    if found and turn:
        backoff(turn)  # somebody else's pages push ours out again
    return found


def our_execve(path, argv, env):
    """execve(2)."""
    turn: cython.int = 0
    while True:
        real_execve(path, argv, env)
        if errno != EFAULT or not touch_arguments(path, argv, env, turn):
            return -1
        turn += 1
        set_errno(EFAULT)


def our_execv(path, argv):
    """execv(3)."""
    turn: cython.int = 0
    while True:
        real_execv(path, argv)
        if errno != EFAULT or not touch_arguments(path, argv, environment, turn):
            return -1
        turn += 1
        set_errno(EFAULT)


def our_execvp(path, argv):
    """execvp(3)."""
    turn: cython.int = 0
    while True:
        real_execvp(path, argv)
        if errno != EFAULT or not touch_arguments(path, argv, environment, turn):
            return -1
        turn += 1
        set_errno(EFAULT)


def our_execvpe(path, argv, env):
    """execvpe(3)."""
    turn: cython.int = 0
    while True:
        real_execvpe(path, argv, env)
        if errno != EFAULT or not touch_arguments(path, argv, env, turn):
            return -1
        turn += 1
        set_errno(EFAULT)


def our_posix_spawn(pid, path, actions, attributes, argv, env):
    """posix_spawn(3), which returns its error: that of the execve() in the child."""
    turn: cython.int = 0
    error: cython.int
    while True:
        error = real_posix_spawn(pid, path, actions, attributes, argv, env)
        if error != EFAULT or not touch_arguments(path, argv, env, turn):
            return error
        turn += 1


def our_posix_spawnp(pid, path, actions, attributes, argv, env):
    """posix_spawnp(3)."""
    turn: cython.int = 0
    error: cython.int
    while True:
        error = real_posix_spawnp(pid, path, actions, attributes, argv, env)
        if error != EFAULT or not touch_arguments(path, argv, env, turn):
            return error
        turn += 1


# --- stacks ----------------------------------------------------------------------------------------


def stack_outside(at, n):
    """What stands for an alternate stack in an arena, or NULL. It stays: who asks again for the same gets the same.

    No lock, so that a fork in the middle of this is nobody's affair. Two threads cannot ask for one stack at once.
    """
    i: cython.int
    found: cython.p_void
    for i in range(MOST_STACKS_LENT):
        if loadi(cython.address(lent[i].state)) == 2 and lent[i].of == at and lent[i].n == n:
            return lent[i].instead
    found = map_bytes(n)
    for i in range(MOST_STACKS_LENT):
        if found != cython.NULL and casi(cython.address(lent[i].state), 0, 1):
            lent[i].of = at
            lent[i].n = n
            lent[i].instead = found
            storei(cython.address(lent[i].state), 2)
            break
    return found


def our_sigaltstack(new, old):
    """sigaltstack(2): Python's faulthandler, say, takes its stack from malloc()."""
    other: stack_t
    if (
        new == cython.NULL
        or in_arena(new, cython.sizeof(stack_t))
        or (new.ss_flags & SS_DISABLE) != 0
        or not in_arena(new.ss_sp, new.ss_size)
    ):
        return real_sigaltstack(new, old)
    other = new[0]
    other.ss_sp = stack_outside(new.ss_sp, new.ss_size)
    if other.ss_sp == cython.NULL:
        set_errno(ENOMEM)
        return -1
    return real_sigaltstack(cython.address(other), old)


def our_setstack(attributes, at, n):
    """pthread_attr_setstack(3): a stack of libc's that is as large. What lies in the arena is not used."""
    return pthread_attr_setstacksize(attributes, n) if in_arena(at, n) else real_setstack(attributes, at, n)


# --- stdio -----------------------------------------------------------------------------------------


def our_fputs(text, stream):
    """fputs(3): a long one is written from where it lies, inside of libc."""
    n: uint64_t
    if not in_arena(text, 1):
        return real_fputs(text, stream)
    n = length(text)
    return 1 if our_fwrite(text, 1, n, stream) == n else -1


def our_fputs_unlocked(text, stream):
    """fputs_unlocked(3)."""
    return our_fputs(text, stream) if in_arena(text, 1) else real_fputs_unlocked(text, stream)


got_add(b"poll", cython.cast(cython.p_void, our_poll), cython.cast(pp_void, cython.address(real_poll)))
got_add(b"__poll_chk", cython.cast(cython.p_void, our_poll_chk), cython.cast(pp_void, cython.address(real_poll_chk)))
got_add(b"ppoll", cython.cast(cython.p_void, our_ppoll), cython.cast(pp_void, cython.address(real_ppoll)))
got_add(
    b"epoll_wait", cython.cast(cython.p_void, our_epoll_wait), cython.cast(pp_void, cython.address(real_epoll_wait))
)
got_add(
    b"epoll_pwait", cython.cast(cython.p_void, our_epoll_pwait), cython.cast(pp_void, cython.address(real_epoll_pwait))
)
got_add(b"execve", cython.cast(cython.p_void, our_execve), cython.cast(pp_void, cython.address(real_execve)))
got_add(b"execv", cython.cast(cython.p_void, our_execv), cython.cast(pp_void, cython.address(real_execv)))
got_add(b"execvp", cython.cast(cython.p_void, our_execvp), cython.cast(pp_void, cython.address(real_execvp)))
got_add(b"execvpe", cython.cast(cython.p_void, our_execvpe), cython.cast(pp_void, cython.address(real_execvpe)))
got_add(
    b"posix_spawn", cython.cast(cython.p_void, our_posix_spawn), cython.cast(pp_void, cython.address(real_posix_spawn))
)
got_add(
    b"posix_spawnp",
    cython.cast(cython.p_void, our_posix_spawnp),
    cython.cast(pp_void, cython.address(real_posix_spawnp)),
)
got_add(
    b"sigaltstack", cython.cast(cython.p_void, our_sigaltstack), cython.cast(pp_void, cython.address(real_sigaltstack))
)
got_add(
    b"pthread_attr_setstack",
    cython.cast(cython.p_void, our_setstack),
    cython.cast(pp_void, cython.address(real_setstack)),
)
got_add(b"fputs", cython.cast(cython.p_void, our_fputs), cython.cast(pp_void, cython.address(real_fputs)))
got_add(
    b"fputs_unlocked",
    cython.cast(cython.p_void, our_fputs_unlocked),
    cython.cast(pp_void, cython.address(real_fputs_unlocked)),
)
