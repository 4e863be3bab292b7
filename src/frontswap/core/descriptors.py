"""The program closes descriptors: what it finds in the place of ours.

To the program our descriptors are not there: close() answers EBADF, close_range() and closefrom() go round them. Only
dup2() and dup3() must say that they are: EBUSY, which both are documented to give when a number is being taken. (To
move ours away first would need every thread that is in a call with the old number to be done with it.) None of this is
remembered anywhere: in the child of a vfork, which has our memory and its own descriptors, it has no effect on us.

What libc does by itself (fclose(), daemon(), posix_spawn()) is not seen: it closes what the program has given it.
"""

import cython
from cython.cimports.frontswap.core.got import got_add
from cython.cimports.frontswap.core.keeper import guard, next_ours, ours, unguard
from cython.cimports.frontswap.core.uapi import (
    CLOSE_RANGE_CLOEXEC,
    EBADF,
    EBUSY,
    set_errno,
)


def our_close(fd):
    """close(2)."""
    if ours(fd):
        set_errno(EBADF)
        return -1
    return real_close(fd)


def our_close_range(first, last, flags):
    """close_range(2): the ranges between our descriptors. With CLOSE_RANGE_CLOEXEC ours are as it would make them."""
    fd: cython.int
    if first > last or (flags & CLOSE_RANGE_CLOEXEC) != 0:
        return real_close_range(first, last, flags)
    while True:
        fd = next_ours(first, last)
        if fd < 0:
            return real_close_range(first, last, flags)
        if cython.cast(cython.uint, fd) > first:
            if real_close_range(first, fd - 1, flags) != 0:
                return -1
        elif flags != 0 and real_close_range(0x7FFFFFFF, 0x7FFFFFFF, flags) != 0:
            return -1  # nothing to close here, but the flags may be wrong, or want a table of its own
        if cython.cast(cython.uint, fd) == last:
            return 0
        first = fd + 1


def our_closefrom(low):
    """closefrom(3)."""
    if next_ours(low if low > 0 else 0, 0xFFFFFFFF) < 0:
        real_closefrom(low)
        return
    our_close_range(low if low > 0 else 0, 0xFFFFFFFF, 0)


def our_dup2(old, new):
    """dup2(2)."""
    if old != new and ours(new):
        set_errno(EBUSY)
        return -1
    return real_dup2(old, new)


def our_dup3(old, new, flags):
    """dup3(2)."""
    if old != new and ours(new):
        set_errno(EBUSY)
        return -1
    return real_dup3(old, new, flags)


def descriptors_watch():
    """Name what is interposed from the next got_patch_all() on."""
    got_add("close", cython.cast(cython.p_void, our_close), cython.cast(cython.pp_void, cython.address(real_close)))
    got_add(
        "close_range",
        cython.cast(cython.p_void, our_close_range),
        cython.cast(cython.pp_void, cython.address(real_close_range)),
    )
    got_add(
        "closefrom",
        cython.cast(cython.p_void, our_closefrom),
        cython.cast(cython.pp_void, cython.address(real_closefrom)),
    )
    got_add("dup2", cython.cast(cython.p_void, our_dup2), cython.cast(cython.pp_void, cython.address(real_dup2)))
    got_add("dup3", cython.cast(cython.p_void, our_dup3), cython.cast(cython.pp_void, cython.address(real_dup3)))


def guard_descriptor(fd: int) -> int:
    """Guard a descriptor that is ours from now on; the number it has then. End with release_descriptor()."""
    return guard(fd)


def release_descriptor(fd: int) -> None:
    """Close a guarded descriptor."""
    unguard(fd)
