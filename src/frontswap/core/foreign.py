"""What the program maps over a part of a reserved mapping, and is not ours: files, shared memory, code.

It is the kernel's alone until it is unmapped, or mapped over again: no fault of it comes to us, nothing of it is filled
or evicted, and it does not count. The arena has a hole there for the registration, which goes around it, and so does a
forked child's.

It is made elsewhere and moved to its place: whatever the kernel says against it, it says before a byte is lost.
"""

import cython
from cython.cimports.frontswap.core.gate import gate_enter, gate_leave
from cython.cimports.frontswap.core.layout import SIDE_PROTECTION
from cython.cimports.frontswap.core.pieces import CLOSED, FOREIGN, PIECE, piece_set
from cython.cimports.frontswap.core.region import region_join
from cython.cimports.frontswap.core.uapi import (
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_NOHUGEPAGE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_NONE,
    add64,
    errno,
    int64_t,
    loadi,
    madvise,
    mmap,
    mremap,
    munmap,
    uint32_t,
)


def foreign_make(n, protection, flags, fd, offset, error):
    """The mapping, at a place of its own; NULL and `*error` as mmap(2) has refused it."""
    at: cython.p_void = mmap(cython.NULL, n, protection, flags & ~cython.cast(cython.int, MAP_FIXED), fd, offset)
    if cython.cast(int64_t, at) != -1:
        return at
    error[0] = errno
    return cython.NULL


def foreign_begin(pg, block, low, high, made):
    """Move a mapping to closed pieces; 0 or an errno: they are closed then. Under protect_lock."""
    error: cython.int
    # Marked first: a registration that comes in between goes around it already.
    piece_set(pg, low, high, FOREIGN)
    block.foreign += cython.cast(uint32_t, (high - low) // PIECE)
    add64(cython.address(pg.foreign), (high - low) // PIECE)
    if cython.cast(int64_t, mremap(made, high - low, high - low, MREMAP_MOVE_FIXED, low)) != -1:
        return 0
    error = errno
    munmap(made, high - low)
    foreign_end(pg, block, low, high)
    return error


def foreign_end(pg, block, low, high):
    """Foreign pieces are ours again, and closed; 0, or an errno: they are foreign still. Under protect_lock.

    Inside the gate: who registers the arena finds them either way.
    """
    error: cython.int = 0
    at: cython.p_void
    gate_enter(pg)
    at = mmap(
        cython.cast(cython.p_void, low),
        high - low,
        PROT_NONE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
        -1,
        0,
    )
    if cython.cast(int64_t, at) == -1:
        error = errno
    else:
        madvise(at, high - low, MADV_DONTDUMP)
        madvise(at, high - low, MADV_DONTFORK)
        madvise(at, high - low, MADV_NOHUGEPAGE)
        if loadi(cython.address(pg.registered)) and pg.side != SIDE_PROTECTION:
            error = region_join(pg, low, high - low)
    if error == 0:
        piece_set(pg, low, high, CLOSED)
        block.foreign -= cython.cast(uint32_t, (high - low) // PIECE)
        add64(cython.address(pg.foreign), -cython.cast(int64_t, (high - low) // PIECE))
    gate_leave(pg)
    return error
