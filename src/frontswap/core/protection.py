"""Pages without userfaultfd, one operation a function: what is absent is PROT_NONE, what is CLEAN is PROT_READ, what is
DIRTY may be read and written. A touch that is not allowed is SIGSEGV, where userfaultfd has SIGBUS.

A page is filled through /proc/self/mem, which may write to what is PROT_NONE (FOLL_FORCE, for private mappings), and
is opened when it is whole: no thread ever sees a half of it. It is closed before its frames go.

Neighbours of different protection are different mappings, and a process may have vm.max_map_count of them. A resident
page makes two more at most, itself and the gap behind it, so the limit bounds them: see seam_claim(). If there are none
left all the same (the program has taken them), a call changes nothing that matters, says ENOMEM, and is made again.

Source: proc_pid_mem(5), mprotect(2), mm/gup.c, mm/mprotect.c, mm/vma.c. All return 0 or an errno, memory_open() more.
"""

import cython
from cython.cimports.frontswap.core.keeper import find_guard, kept_call, ours
from cython.cimports.frontswap.core.uapi import (
    EAGAIN,
    EBADF,
    EFAULT,
    EINTR,
    EIO,
    ENOMEM,
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_NORESERVE,
    MAP_PRIVATE,
    O_CLOEXEC,
    O_RDWR,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    SYS_pwrite64,
    backoff,
    close,
    errno,
    int64_t,
    madvise,
    mmap,
    mprotect,
    munmap,
    open,
    syscall,
    uint64_t,
)
from cython.cimports.libc.string import memcmp, memset

SMALL = cython.declare(uint64_t, 4096)


def protection_prepare(address):
    """Once, while all that will be protected is one mapping still: `address` lies in it.

    Mappings are joined only if they have their anon_vma in common, and a part has the whole one's. A mapping that has
    none yet (nothing was ever touched) would give each of its parts one of its own, and what has left RAM would stay
    separate for ever: as many mappings as there are pages.
    """
    memset(cython.cast(cython.p_void, address), 0, 1)
    madvise(cython.cast(cython.p_void, address), SMALL, MADV_DONTNEED)


def memory_open():
    """A descriptor of the memory of this process, or -errno. In a forked child it is its parent's memory."""
    fd: cython.int = open(cython.cast(cython.p_char, "/proc/self/mem"), O_RDWR | O_CLOEXEC)
    return fd if fd >= 0 else -errno


def memory_try():
    """Whether it writes to what is PROT_NONE; a kernel can be told to refuse that (proc_mem.force_override=): EIO."""
    error: cython.int
    pattern: cython.uchar[64]
    at: cython.p_void
    fd: cython.int = memory_open()
    if fd < 0:
        return -fd
    at = mmap(cython.NULL, SMALL, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if cython.cast(int64_t, at) == -1:
        error = errno
        close(fd)
        return error
    memset(pattern, 0x5A, 64)
    error = write_all(fd, cython.cast(uint64_t, at), pattern, 64, False)
    if error == 0:
        error = arrange(cython.cast(uint64_t, at), SMALL, PROT_READ, False)
    if error == 0 and memcmp(at, pattern, 64) != 0:
        error = EIO
    munmap(at, SMALL)
    close(fd)
    return error


def is_open(fd):
    """True if a descriptor is the one that we have opened."""
    return find_guard(fd) < 0 or ours(fd)


def write_all(fd, to, data, size, kept):
    """Write to memory that is PROT_NONE; by the keeper, if somebody has closed our descriptor (`kept`)."""
    done: uint64_t = 0
    at: cython.long
    left: cython.long
    place: cython.long
    got: cython.long
    turn: cython.int = 0
    while done < size:
        at = cython.cast(cython.long, cython.cast(uint64_t, data) + done)
        left = cython.cast(cython.long, size - done)
        place = cython.cast(cython.long, to + done)
        if kept:
            got = kept_call(SYS_pwrite64, fd, at, left, place)
        else:
            got = syscall(SYS_pwrite64, fd, at, left, place)
        if got > 0:
            done += cython.cast(uint64_t, got)
        elif got < 0 and errno != EINTR and errno != EAGAIN:
            return errno
        elif turn > 2000:
            return EFAULT
        else:
            backoff(turn)
            turn += 1
    return 0


def arrange(address, size, protection, patient):
    """mprotect(). `patient`: without a mapping to be had, wait for others to give theirs back (for a second or so)."""
    turn: cython.int = 0
    while mprotect(cython.cast(cython.p_void, address), size, protection) != 0:
        if errno != ENOMEM or not patient or turn > 20000:
            return errno
        backoff(turn)
        turn += 1
    return 0


def protection_fill(fd, to, data, size, protected):
    """Fill `size` absent bytes at `to` and open them, for reading only if `protected`.

    ENOMEM: no memory, or no mapping; whatever is there then is closed, and absent for all but us.
    """
    error: cython.int = EBADF
    if is_open(fd):
        error = write_all(fd, to, data, size, False)
    # Looked at again: what a file got that had our number meanwhile is missing here.
    if not is_open(fd):
        error = write_all(fd, to, data, size, True)
    if error == EIO:
        return ENOMEM  # all that the kernel says of a page that it could not make
    return error if error else protection_open(to, size, protected, False)


def protection_open(address, size, protected, patient):
    """Open what is closed, as it is (what is absent of it reads as zeros), for reading only if `protected`."""
    return arrange(address, size, PROT_READ if protected else PROT_READ | PROT_WRITE, patient)


def protection_join(address):
    """Have all pieces that a mapping is ever split into be of one kind, so that neighbours of the same protection
    become one again: touched before it is split, they share its anon_vma. Touched first one by one, they never join.

    Source: is_mergeable_anon_vma() in mm/vma.c. (In a forked child each piece of the moment has one of its own.)
    """
    cython.cast(cython.p_char, address)[0] = 0
    return errno if madvise(cython.cast(cython.p_void, address), SMALL, MADV_DONTNEED) != 0 else 0


def protection_room(n):
    """Whether this process can have `n` more mappings, at least 2: 0 or an errno. They are made, and given back."""
    error: cython.int = 0
    i: cython.int
    size: uint64_t = SMALL * n
    at: cython.p_void = mmap(cython.NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if cython.cast(int64_t, at) == -1:
        return errno
    for i in range(0, n, 2):
        if error == 0:
            error = arrange(cython.cast(uint64_t, at) + SMALL * i, SMALL, PROT_READ, False)
    munmap(at, size)
    return error


def protection_close(address, size, patient):
    """Keep everybody away, whatever is there. A part of it may have been closed when there is an error."""
    return arrange(address, size, PROT_NONE, patient)
