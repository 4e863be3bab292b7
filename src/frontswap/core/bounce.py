"""Bounce buffers: the kernel is never handed memory of an arena.

A call that would move bytes between a descriptor and an arena moves them between the descriptor and a buffer of this
thread instead; memcpy() moves them on, and what is evicted or clean then is an ordinary fault of this thread. So
nothing is pinned, nothing is held while a call blocks, and a fault cannot come in the middle of a call that has
consumed a message already.

Nothing here takes a lock, and all of it may run in a signal handler, on a small stack, and in a thread that is
cancelled in the call. A handler that interrupts a transfer gets a buffer of its own. (Who leaves a transfer by
siglongjmp leaves the thread's buffer taken: its next transfers map one each.)
"""

import cython
from cython.cimports.frontswap.core.posixio import (
    FD_FILE,
    FD_RECORDS,
    FD_STREAM,
    MSG_PEEK,
    MSG_TRUNC,
    MSG_WAITALL,
    fd_kind,
    pthread_getspecific,
    pthread_key_create,
    pthread_setspecific,
    ssize_t,
)
from cython.cimports.frontswap.core.reach import map_reach
from cython.cimports.frontswap.core.seam import in_arena
from cython.cimports.frontswap.core.uapi import (
    EFAULT,
    EINVAL,
    ENOMEM,
    MAP_ANONYMOUS,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    block_signals,
    casi,
    errno,
    int64_t,
    iovec,
    mmap,
    munmap,
    restore_signals,
    set_errno,
    sigset_t,
    storei,
    uint8_t,
    uint64_t,
)
from cython.cimports.libc.string import memcpy

# --- buffers ---------------------------------------------------------------------------------------


def bounce_setup():
    """Make the key of the threads' buffers; once, before the first transfer."""
    # A later key would have pthread_setspecific() call malloc(), which a signal handler may not: no cache then.
    if has_key == 0 and pthread_key_create(cython.address(key), drop_region) == 0:
        storei(cython.address(has_key), 1 if key < CACHED_KEYS else -1)


def map_bytes(n):
    """Zeros; only what is touched costs RAM. NULL: none."""
    at: cython.p_void = mmap(cython.NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    return cython.NULL if cython.cast(int64_t, at) == -1 else at


def drop_region(region):
    """The thread ends; it may have been cancelled in a transfer."""
    r: region_p = cython.cast(region_p, region)
    if r.larger_bytes > 0:
        munmap(r.larger, r.larger_bytes)
    munmap(region, cython.sizeof(region_t) + UNALIGNED + PIECE)


def take_region():
    """This thread's buffer, or a temporary one if the thread is using it; NULL: no memory."""
    region: region_p = cython.NULL
    signals: sigset_t
    if has_key == 1:
        region = cython.cast(region_p, pthread_getspecific(key))
        if region == cython.NULL:
            # A handler in the middle of this would make one too, and one of them would be lost.
            block_signals(cython.address(signals))
            region = cython.cast(region_p, map_bytes(cython.sizeof(region_t) + UNALIGNED + PIECE))
            if region != cython.NULL and pthread_setspecific(key, region) != 0:
                region.temporary = 1
            restore_signals(cython.address(signals))
        if region == cython.NULL:
            return region
        if casi(cython.address(region.busy), 0, 1):
            return region
    region = cython.cast(region_p, map_bytes(cython.sizeof(region_t) + UNALIGNED + PIECE))
    if region != cython.NULL:
        region.temporary = 1
    return region


def give_region(region):
    """End of take_region()."""
    if region.temporary:
        drop_region(region)
    else:
        storei(cython.address(region.busy), 0)


# --- vectors ---------------------------------------------------------------------------------------


def vector_in_arena(vector, count):
    """True if one of these buffers, or the vector itself, lies in an arena; False where the kernel refuses it anyway.

    A vector that cannot be read is SIGSEGV here and EFAULT in the kernel, except near NULL.
    """
    i: uint64_t
    if cython.cast(uint64_t, vector) < 4096 or count == 0 or count > MOST_VECTOR:
        return False
    if in_arena(vector, count * cython.sizeof(iovec)):
        return True
    for i in range(count):
        if in_arena(vector[i].iov_base, vector[i].iov_len):
            return True
    return False


def vector_bytes(vector, count):
    """The bytes of all buffers; -1: more than a call may return."""
    i: cython.int
    total: uint64_t = 0
    most: uint64_t = cython.cast(uint64_t, 1) << 63
    for i in range(count):
        if vector[i].iov_len >= most or total + vector[i].iov_len >= most:
            return -1
        total += vector[i].iov_len
    return cython.cast(int64_t, total)


def copy(at, piece, n, out):
    """Move `n` bytes between the program's buffers, from `at` on, and the piece; and `at` with them."""
    part: uint64_t
    user: cython.pointer(uint8_t)
    while n > 0:
        part = min(n, at.vector[0].iov_len - at.offset)
        user = cython.cast(cython.pointer(uint8_t), at.vector[0].iov_base) + at.offset
        if part > 0:
            if out:
                memcpy(piece, user, part)
            else:
                memcpy(user, piece, part)
        piece += part
        n -= part
        at.offset += part
        if at.offset == at.vector[0].iov_len:
            at.vector += 1
            at.offset = 0


# --- transfers -------------------------------------------------------------------------------------


def how_to(c):
    """How a transfer of more than one piece keeps the meaning of one call."""
    kind: cython.int
    if c.how != BY_DESCRIPTOR:
        return c.how
    kind = fd_kind(c.fd)
    if kind == FD_FILE:
        return LOOP
    if kind == FD_RECORDS:
        return WHOLE
    if kind != FD_STREAM:
        return ONE_PIECE  # an error, whatever the size
    if c.out:
        return LOOP  # where the kernel would wait for room it waits in each piece, where not a piece is short
    if (c.flags & MSG_PEEK) != 0:
        return WHOLE  # the second piece would be the first one again
    return LOOP if (c.flags & MSG_WAITALL) != 0 else ONE_PIECE


def move(c, region, vector, total):
    """Make the call, in one or several pieces; what the real one would return, and errno."""
    at: cursor_t
    ahead: cursor_t
    start: uint64_t
    size: uint64_t = total
    how: cython.int = WHOLE
    done: uint64_t = 0
    part: uint64_t
    got: ssize_t = 0
    data: cython.pointer(uint8_t) = cython.cast(cython.pointer(uint8_t), region) + cython.sizeof(region_t)
    larger: cython.p_void = cython.NULL
    before: cython.int = errno
    if size > PIECE or c.kept > 0:
        how = how_to(c)
        if how == WHOLE:
            larger = map_bytes(size + UNALIGNED)
            if larger == cython.NULL:
                set_errno(ENOMEM)
                return -1
            region.larger = larger
            region.larger_bytes = size + UNALIGNED
            data = cython.cast(cython.pointer(uint8_t), larger)
        else:
            size = PIECE
    # O_DIRECT: aligned if the program's buffer is.
    start = cython.cast(uint64_t, vector[0].iov_base) % UNALIGNED
    data += (start - cython.cast(uint64_t, data)) % UNALIGNED
    at.vector = vector
    at.offset = 0
    while True:
        part = min(size, total - done)
        if c.out:
            copy(cython.address(at), data, part, True)
        elif (c.flags & MSG_TRUNC) != 0:
            # TCP throws the bytes away, counts them, and leaves the program's buffer as it was.
            ahead = at
            copy(cython.address(ahead), data, part, True)
        set_errno(before)
        got = c.one(c, data, part, done)
        if got < 0:
            before = errno
            break
        if not c.out:
            copy(cython.address(at), data, min(cython.cast(uint64_t, got), part), False)
        done += cython.cast(uint64_t, got)
        if cython.cast(uint64_t, got) < part or how != LOOP or done >= total:
            break
    if larger != cython.NULL:
        region.larger_bytes = 0
        munmap(larger, size + UNALIGNED)
    set_errno(before)
    # What has been moved is never lost: the error comes with the next call, as from the kernel.
    return cython.cast(ssize_t, done) if done > 0 or got >= 0 else -1


def within_reach(c, vector, count, total):
    """How much of `total` bytes the program may touch, from the first on; 0: EFAULT. A message is whole, or nothing."""
    i: cython.int
    done: uint64_t = 0
    size: uint64_t
    found: uint64_t
    for i in range(count):
        size = min(vector[i].iov_len, total - done)
        found = map_reach(cython.cast(uint64_t, vector[i].iov_base), size, not c.out) if size else 0
        done += found
        if found < size:
            return 0 if how_to(c) == WHOLE else done
    return done


def transfer(c, buffer, n):
    """The call `c` on one buffer."""
    vector: iovec
    region: region_p
    result: ssize_t
    total: uint64_t = n if c.uncapped else min(n, MOST_BYTES)
    vector.iov_base = cython.cast(cython.p_void, buffer)
    vector.iov_len = n
    total = within_reach(c, cython.address(vector), 1, total)
    if total == 0:
        set_errno(EFAULT)
        return -1
    region = take_region()
    if region == cython.NULL:
        set_errno(ENOMEM)
        return -1
    result = move(c, region, cython.address(vector), total)
    give_region(region)
    return result


def transfer_vector(c, vector, count):
    """The call `c` on several buffers. EINVAL: they have more bytes than a call may return."""
    region: region_p
    total: int64_t = vector_bytes(vector, count)
    most: uint64_t
    reach: uint64_t
    result: ssize_t
    if total < 0:
        set_errno(EINVAL)
        return -1
    region = take_region()
    if region == cython.NULL:
        set_errno(ENOMEM)
        return -1
    # A copy, as the kernel makes: what is read may be the vector itself.
    memcpy(region.vector, vector, cython.cast(uint64_t, count) * cython.sizeof(iovec))
    most = min(cython.cast(uint64_t, total), c.kept if c.kept > 0 else MOST_BYTES)
    reach = within_reach(c, region.vector, count, most)
    if reach == 0 and most > 0:
        set_errno(EFAULT)
        result = -1
    else:
        result = move(c, region, region.vector, reach)
    give_region(region)
    return result
