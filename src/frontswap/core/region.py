"""The arena's pages, whoever catches their faults: the operations that both kinds of sides offer, one a function.

With userfaultfd (core/uffd.py) or with protection (core/protection.py). What only userfaultfd has, MOVE and poison, is
called where it is used. All return 0 or an errno; ENOMEM is no end: there is no memory, or no mapping, at this moment.
"""

import cython
from cython.cimports.frontswap.core.contexts import whole_bytes
from cython.cimports.frontswap.core.keeper import guard, unguard
from cython.cimports.frontswap.core.layout import MAX_CONTEXTS, SIDE_PROTECTION, SIDE_SIGBUS, SIDE_THREAD
from cython.cimports.frontswap.core.pieces import foreign_run
from cython.cimports.frontswap.core.protection import (
    memory_open,
    memory_try,
    protection_close,
    protection_fill,
    protection_join,
    protection_open,
    protection_prepare,
)
from cython.cimports.frontswap.core.uapi import (
    UFFD_FEATURE_MOVE,
    UFFD_FEATURE_POISON,
    UFFD_FEATURE_SIGBUS,
    UFFD_FEATURE_THREAD_ID,
    UFFD_FEATURE_WP,
    UFFDIO_REGISTER_MODE_MISSING,
    UFFDIO_REGISTER_MODE_WP,
    close,
    loadi,
    storei,
    uint64_t,
)
from cython.cimports.frontswap.core.uffd import (
    die,
    uffd_copy,
    uffd_open,
    uffd_protect,
    uffd_register,
)

# --- registration --------------------------------------------------------------------------------


def region_prepare(pg):
    """The arena has just been mapped: see protection_prepare(). With userfaultfd what is reserved is protected, too."""
    # Behind its end: the mapping goes on there, and what has been touched could be no huge page.
    protection_prepare(pg.base + pg.size)


def region_open(pg):
    """The descriptor that this Memory's side needs, or -errno."""
    user_mode: cython.bint = False
    features: uint64_t = UFFD_FEATURE_WP
    if pg.side == SIDE_PROTECTION:
        return memory_open()
    if pg.use_poison:
        features |= UFFD_FEATURE_POISON
    elif pg.side == SIDE_THREAD:
        features |= UFFD_FEATURE_THREAD_ID  # whom to send SIGBUS
    if pg.use_move:
        features |= UFFD_FEATURE_MOVE
    if pg.side == SIDE_SIGBUS:
        features |= UFFD_FEATURE_SIGBUS
    return uffd_open(features, cython.address(user_mode))


def region_supported(pg):
    """Whether there will be what is needed when it is: 0 or an errno. The arena is one mapping, and untouched."""
    error: cython.int
    fd: cython.int
    if pg.side == SIDE_PROTECTION:
        error = memory_try()
        return error if error else protection_join(pg.base)
    fd = region_open(pg)
    if fd < 0:
        return -fd
    close(fd)
    return 0


def region_register(pg):
    """From here on every touch of what is absent is a fault: `pg.fd`. 0, or an errno and nothing is changed.

    In a forked child again: of the protection it has all, and its descriptor must be of its own memory.
    """
    error: cython.int = 0
    i: cython.int
    fd: cython.int = region_open(pg)
    if fd < 0:
        return -fd
    if pg.side == SIDE_PROTECTION:
        if loadi(cython.address(pg.registered)) == 0:
            error = protection_close(pg.base, pg.size, False)
            if error and protection_open(pg.base, pg.size, False, True) != 0:
                die("mprotect", error)
    else:
        for i in range(MAX_CONTEXTS):
            if error == 0:
                error = uffd_register(
                    fd,
                    cython.cast(uint64_t, pg.contexts[i].frame),
                    pg.max_page + whole_bytes(pg),
                    UFFDIO_REGISTER_MODE_MISSING,
                )
        if error == 0:
            error = register_arena(pg, fd)
    if error:
        close(fd)
        return error
    pg.fd = guard(fd)
    storei(cython.address(pg.registered), 1)
    return 0


def register_arena(pg, fd):
    """Register all of the arena, but for what is foreign: see core/foreign.py."""
    at: uint64_t = pg.base
    low: uint64_t = pg.base
    high: uint64_t
    error: cython.int = 0
    while at < pg.base + pg.size and error == 0:
        low = at
        high = foreign_run(pg, cython.address(low), pg.base + pg.size)
        if high == 0:
            low = high = pg.base + pg.size
        if at < low:
            error = uffd_register(fd, at, low - at, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP)
        at = high
    return error


def region_join(pg, address, size):
    """A part of the arena that has been mapped anew faults as all of it does."""
    return uffd_register(pg.fd, address, size, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP)


def region_unregister(pg):
    """End of region_register() behind the closed gate, before a page was looked at: ordinary memory again."""
    error: cython.int = 0
    if pg.side == SIDE_PROTECTION:
        error = region_allow(pg, pg.base, pg.size, True)
        if error:
            die("mprotect", error)
    storei(cython.address(pg.registered), 0)
    unguard(pg.fd)
    pg.fd = -1


# --- pages ---------------------------------------------------------------------------------------


def region_fill(pg, to, data, size, protected, again):
    """Fill `size` absent bytes at `to`, write-protected if `protected`; nobody sees a half of a small page.

    `again`: it has ended with ENOMEM before. Then a part is there, maybe, and others may have written to it.
    """
    if pg.side == SIDE_PROTECTION:
        return protection_fill(pg.fd, to, data, size, protected)
    return uffd_copy(pg.fd, to, data, size, protected, again)


def region_touch(pg, to, size, protected, again):
    """The first touch of absent bytes: zeros. `again`: as of region_fill()."""
    if pg.side == SIDE_PROTECTION:
        return protection_open(to, size, protected, False)
    return uffd_copy(pg.fd, to, pg.zeros, size, protected, again)


def region_complete(pg, to, size):
    """Fill what is absent of `size` bytes at `to` with zeros, and leave what is present as it is."""
    if pg.side == SIDE_PROTECTION:
        return protection_open(to, size, False, False)
    return uffd_copy(pg.fd, to, pg.zeros, size, False, True)


def region_keep(pg, address, size):
    """Keep writers away from what is present. ENOMEM: they may be kept away from a part of it."""
    if pg.side == SIDE_PROTECTION:
        return protection_open(address, size, True, False)
    return uffd_protect(pg.fd, address, size, True)


def region_allow(pg, address, size, patient):
    """Let writers in again, and wake who waits (handler threads). `patient`: the caller has nowhere else to go."""
    if pg.side == SIDE_PROTECTION:
        return protection_open(address, size, False, patient)
    return uffd_protect(pg.fd, address, size, False)


def region_close(pg, address, size, patient):
    """Before frames are given back in their places: a touch from now on is a fault.

    (With userfaultfd it is one by itself, once they have gone.)
    """
    if pg.side == SIDE_PROTECTION:
        return protection_close(address, size, patient)
    return 0
