"""userfaultfd, one operation a function: whole or not at all, EAGAIN and half-done calls inside.

Source: Documentation/admin-guide/mm/userfaultfd.rst and mm/userfaultfd.c. All return 0 or an errno.
"""

import cython
from cython.cimports.frontswap.core.keeper import guarded_ioctl
from cython.cimports.frontswap.core.layout import const_bytes_p
from cython.cimports.frontswap.core.uapi import (
    EAGAIN,
    EBADF,
    EBUSY,
    EEXIST,
    EINTR,
    EINVAL,
    ENOENT,
    O_APPEND,
    O_CLOEXEC,
    O_NONBLOCK,
    O_RDWR,
    O_WRONLY,
    UFFD_API,
    UFFD_USER_MODE_ONLY,
    UFFDIO_API,
    UFFDIO_COPY,
    UFFDIO_COPY_MODE_WP,
    UFFDIO_MOVE,
    UFFDIO_POISON,
    UFFDIO_REGISTER,
    UFFDIO_WAKE,
    UFFDIO_WRITEPROTECT,
    UFFDIO_WRITEPROTECT_MODE_WP,
    USERFAULTFD_IOC_NEW,
    SYS_userfaultfd,
    backoff,
    close,
    errno,
    ioctl,
    open,
    syscall,
    uffdio_api,
    uffdio_copy,
    uffdio_move,
    uffdio_poison,
    uffdio_range,
    uffdio_register,
    uffdio_writeprotect,
    uint64_t,
    write,
)
from cython.cimports.libc.stdlib import abort
from cython.cimports.libc.string import strerror, strlen


def say(text):
    """Write a message to the process's stderr.

    A thread with a descriptor table of its own has none; /proc/self/fd is the main thread's.
    """
    fd: cython.int
    if write(2, text, strlen(text)) < 0 and errno == EBADF:
        fd = open(cython.cast(cython.p_char, "/proc/self/fd/2"), O_WRONLY | O_APPEND | O_CLOEXEC)
        if fd >= 0:
            if write(fd, text, strlen(text)) < 0:
                pass
            close(fd)


def die(what, error):
    """The protocol is broken: going on would be wrong bytes."""
    cause: cython.p_const_char = strerror(error)
    if error == EBADF:
        cause = cython.cast(
            cython.p_const_char,
            'somebody has closed a descriptor of frontswap (closerange? see "The descriptor" in docs/design.md)',
        )
    say(cython.cast(cython.p_const_char, "frontswap: internal error, stopping before bytes are lost: "))
    say(what)
    say(cython.cast(cython.p_const_char, ": "))
    say(cause)
    say(cython.cast(cython.p_const_char, "\n"))
    abort()


def uffd_copy(fd, to, data, size, protected, again):
    """Fill `size` absent bytes at `to`, write-protected if `protected`. `again`: a part may be there, and stays."""
    c: uffdio_copy
    done: uint64_t = 0
    most: uint64_t = size
    turn: cython.int = 0
    while done < size:
        c.dst = to + done
        c.src = cython.cast(uint64_t, data) + done
        c.len = min(size - done, most)
        c.mode = UFFDIO_COPY_MODE_WP if protected else 0
        c.copy = 0
        if guarded_ioctl(fd, UFFDIO_COPY, cython.address(c)) == 0:
            done += c.len
        elif c.copy > 0:
            done += cython.cast(uint64_t, c.copy)
        elif errno == EEXIST and again:
            done += 4096
        elif errno == ENOENT and most > 4096:
            most = 4096  # more than one mapping: the program protects, or did, a part of the page
        elif errno == EAGAIN:
            backoff(turn)
            turn += 1
        else:
            return errno
    return 0


def uffd_protect(fd, address, size, on):
    """Set or clear write protection; clearing wakes who waits in handler-thread mode."""
    w: uffdio_writeprotect
    done: uint64_t = 0
    most: uint64_t = size
    turn: cython.int = 0
    w.mode = UFFDIO_WRITEPROTECT_MODE_WP if on else 0
    while done < size:
        w.range.start = address + done
        w.range.len = min(size - done, most)
        if guarded_ioctl(fd, UFFDIO_WRITEPROTECT, cython.address(w)) == 0:
            done += w.range.len
            continue
        if errno == ENOENT and most > 4096:
            most = 4096  # as in uffd_copy(); from Linux 6.4 on it takes more than one mapping
        elif errno != EAGAIN and errno != EINTR:
            return errno
        backoff(turn)
        turn += 1
    return 0


def move_on(fd, to, address, size, done):
    """Move present bytes to an absent range; `*done` of them have gone when one cannot, as far as the kernel says."""
    m: uffdio_move
    turn: cython.int = 0
    error: cython.int = 0
    done[0] = 0
    while done[0] < size:
        m.dst = to + done[0]
        m.src = address + done[0]
        m.len = size - done[0]
        m.mode = 0
        m.move = 0
        if guarded_ioctl(fd, UFFDIO_MOVE, cython.address(m)) == 0:
            return 0
        error = errno
        if error == EINVAL and done[0] == 0:
            return error  # more than one mapping, which the kernel looks at first: see uffd_copy()
        if m.move > 0:
            done[0] += cython.cast(uint64_t, m.move)
            continue
        # EAGAIN: a page is locked or being migrated for a moment. EBUSY may pass as quickly; what is
        # still busy after a few turns is pinned, and stays.
        if error != EAGAIN and (error != EBUSY or turn > 8):
            break
        if turn > 2000:
            break
        backoff(turn)
        turn += 1
    return 0 if done[0] >= size else error


def uffd_bring(fd, to, address, size):
    """Move `size` present bytes of ours to the absent range `to`, where others may write to them at once: there is no
    way back. 0; EINVAL: nothing has gone, and it never will; another errno: a part has, or nothing.
    """
    done: uint64_t
    error: cython.int = move_on(fd, to, address, size, cython.address(done))
    return EBUSY if error == EINVAL and done else error


def uffd_finish(fd, to, address, size):
    """uffd_bring() has brought a part: bring the rest, and what is busy as a copy. 0 or an errno; ENOMEM: do it again.

    Of each small page either this or that is there.
    """
    m: uffdio_move
    done: uint64_t = 0
    turn: cython.int = 0
    error: cython.int
    while done < size:
        m.dst = to + done
        m.src = address + done
        m.len = 4096
        m.mode = 0
        m.move = 0
        if guarded_ioctl(fd, UFFDIO_MOVE, cython.address(m)) == 0 or errno == EEXIST or errno == ENOENT:
            done += 4096
            turn = 0
            continue
        if errno != EAGAIN or turn > 2000:
            error = uffd_copy(fd, to + done, cython.cast(const_bytes_p, address + done), 4096, False, False)
            if error and error != EEXIST:
                return error
            done += 4096
            turn = 0
            continue
        backoff(turn)
        turn += 1
    return 0


def uffd_move(fd, to, address, size):
    """Move `size` present bytes to the absent range `to`, whole; EBUSY when one is pinned.

    What had been moved before the refusal is moved back: afterwards either all or nothing has gone. The way back looks
    at every small page and does not go by what the kernel says it has moved: 231 of 512 were lost once, beyond where
    `to` crossed a page table (6.18, which moves in batches; callers do not cross any now).
    """
    m: uffdio_move
    done: uint64_t
    back: uint64_t = 0
    turn: cython.int = 0
    error: cython.int = move_on(fd, to, address, size, cython.address(done))
    if error == 0 or (error == EINVAL and done == 0):
        return error
    while back < size:
        m.dst = address + back
        m.src = to + back
        m.len = size - back
        m.mode = 0
        m.move = 0
        if guarded_ioctl(fd, UFFDIO_MOVE, cython.address(m)) == 0:
            break
        if m.move > 0:
            back += cython.cast(uint64_t, m.move)
            turn = 0
        elif errno == EEXIST or errno == ENOENT:
            back += 4096  # it is in its place, or was not there at all
            turn = 0
        elif errno != EAGAIN and turn > 2000:
            die("UFFDIO_MOVE back", errno)
        else:
            backoff(turn)
            turn += 1
    return error


def uffd_poison(fd, address, size):
    """Mark absent bytes as lost: accesses end in SIGBUS, system calls in EHWPOISON (6.6+)."""
    p: uffdio_poison
    p.start = address
    p.len = size
    p.mode = 0
    p.updated = 0
    return 0 if guarded_ioctl(fd, UFFDIO_POISON, cython.address(p)) == 0 else errno


def uffd_wake(fd, address, size):
    """Let waiting threads try their access again (handler-thread mode)."""
    r: uffdio_range
    r.start = address
    r.len = size
    guarded_ioctl(fd, UFFDIO_WAKE, cython.address(r))


def uffd_new(user_mode):
    """A userfaultfd before UFFDIO_API, or -errno. Kernel-mode faults where we may have them.

    In this order: the system call with full privilege (root, or vm.unprivileged_userfaultfd=1), then
    /dev/userfaultfd where its mode allows, then user mode only, which needs no privilege.
    """
    device: cython.int
    fd: cython.int = cython.cast(cython.int, syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))
    user_mode[0] = False
    if fd < 0:
        device = open(cython.cast(cython.p_char, "/dev/userfaultfd"), O_RDWR | O_CLOEXEC)
        if device >= 0:
            fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK)
            close(device)
    if fd < 0:
        user_mode[0] = True
        fd = cython.cast(cython.int, syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY))
    return fd if fd >= 0 else -errno


def uffd_open(features, user_mode):
    """A userfaultfd with these features, or -errno."""
    api: uffdio_api
    error: cython.int
    fd: cython.int = uffd_new(user_mode)
    if fd < 0:
        return fd
    api.api = UFFD_API
    api.features = features
    api.ioctls = 0
    if ioctl(fd, UFFDIO_API, cython.address(api)) != 0:
        error = errno
        close(fd)
        return -error
    return fd


def uffd_features():
    """The features this kernel offers, 0 if it offers no userfaultfd to us."""
    api: uffdio_api
    user_mode: cython.bint = False
    fd: cython.int = uffd_new(cython.address(user_mode))
    if fd < 0:
        return 0
    api.api = UFFD_API
    api.features = 0
    api.ioctls = 0
    if ioctl(fd, UFFDIO_API, cython.address(api)) != 0:
        api.features = 0
    close(fd)
    return api.features


def uffd_register(fd, address, size, mode):
    """Register a range for faults (UFFDIO_REGISTER_MODE_*)."""
    r: uffdio_register
    r.range.start = address
    r.range.len = size
    r.mode = mode
    r.ioctls = 0
    return 0 if guarded_ioctl(fd, UFFDIO_REGISTER, cython.address(r)) == 0 else errno
