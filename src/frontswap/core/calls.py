"""Calls of libc that move bytes between descriptors and memory, for memory of an arena: files, pipes and stdio.

Each our_NAME() takes the place of NAME (core/got.py). It looks first whether one of its buffers lies in an arena; if
none does it is the real call, some nanoseconds later. Else it is made through a bounce buffer (core/bounce.py), and
means what it means on plain memory: counts, positions, errno, what is left in the descriptor. The calls of sockets are
in core/sockets.py, those of message queues in core/queues.py.
"""

import cython
from cython.cimports.frontswap.core.bounce import (
    LOOP,
    PIECE,
    WHOLE,
    bounce_setup,
    call_t,
    transfer,
    transfer_vector,
    vector_in_arena,
)
from cython.cimports.frontswap.core.got import got_add
from cython.cimports.frontswap.core.posixio import pipe_room, with_stream_locked
from cython.cimports.frontswap.core.seam import in_arena
from cython.cimports.frontswap.core.uapi import iovec, uint64_t
from cython.cimports.libc.string import memset

# --- one call on plain memory ----------------------------------------------------------------------


def one_read(c, at, n, done):
    """Moves the position of the file by itself."""
    return real_read(c.fd, at, n)


def one_write(c, at, n, done):
    """Moves the position of the file by itself."""
    return real_write(c.fd, at, n)


def one_pread(c, at, n, done):
    """From where the piece before has ended."""
    return real_pread(c.fd, at, n, c.offset + done)


def one_pwrite(c, at, n, done):
    """To where the piece before has ended."""
    return real_pwrite(c.fd, at, n, c.offset + done)


def one_preadv2(c, at, n, done):
    """Offset -1: the position of the file."""
    vector: iovec
    vector.iov_base = at
    vector.iov_len = n
    return real_preadv2(c.fd, cython.address(vector), 1, -1 if c.offset == -1 else c.offset + done, c.flags)


def one_pwritev2(c, at, n, done):
    """Offset -1: the position of the file."""
    vector: iovec
    vector.iov_base = at
    vector.iov_len = n
    return real_pwritev2(c.fd, cython.address(vector), 1, -1 if c.offset == -1 else c.offset + done, c.flags)


def one_getrandom(c, at, n, done):
    """Short when a signal has come."""
    return real_getrandom(at, n, c.flags)


def one_vmsplice(c, at, n, done):
    """The pipe has the pages that it is given until they are read."""
    vector: iovec
    vector.iov_base = at
    vector.iov_len = n
    return real_vmsplice(c.fd, cython.address(vector), 1, cython.cast(cython.uint, c.flags))


def one_fread(c, at, n, done):
    """Bytes, not items: the position moves by part of an item, too."""
    s: stream_call_p = cython.cast(stream_call_p, c.more)
    return s.fread(at, 1, n, s.stream)


def one_fwrite(c, at, n, done):
    """Bytes, not items."""
    s: stream_call_p = cython.cast(stream_call_p, c.more)
    return s.fwrite(at, 1, n, s.stream)


# --- descriptors -----------------------------------------------------------------------------------


def our_read(fd, buffer, n):
    """read(2)."""
    c: call_t
    if not in_arena(buffer, n):
        return real_read(fd, buffer, n)
    memset(cython.address(c), 0, cython.sizeof(c))
    c.one = one_read
    c.fd = fd
    return transfer(cython.address(c), buffer, n)


def our_write(fd, buffer, n):
    """write(2)."""
    c: call_t
    if not in_arena(buffer, n):
        return real_write(fd, buffer, n)
    memset(cython.address(c), 0, cython.sizeof(c))
    c.one = one_write
    c.out = True
    c.fd = fd
    return transfer(cython.address(c), buffer, n)


def at_offset(fd, buffer, n, offset, out):
    """pread(2) and pwrite(2)."""
    c: call_t
    memset(cython.address(c), 0, cython.sizeof(c))
    c.one = one_pwrite if out else one_pread
    c.out = out
    c.fd = fd
    c.offset = offset
    return transfer(cython.address(c), buffer, n)


def vector_call(fd, vector, count, out):
    """readv(2) and writev(2)."""
    c: call_t
    memset(cython.address(c), 0, cython.sizeof(c))
    c.one = one_write if out else one_read
    c.out = out
    c.fd = fd
    return transfer_vector(cython.address(c), vector, count)


def vector_at_offset(fd, vector, count, offset, out):
    """preadv(2) and pwritev(2)."""
    c: call_t
    memset(cython.address(c), 0, cython.sizeof(c))
    c.one = one_pwrite if out else one_pread
    c.out = out
    c.fd = fd
    c.offset = offset
    return transfer_vector(cython.address(c), vector, count)


def vector_with_flags(fd, vector, count, offset, flags, out):
    """preadv2(2) and pwritev2(2)."""
    c: call_t
    memset(cython.address(c), 0, cython.sizeof(c))
    c.one = one_pwritev2 if out else one_preadv2
    c.out = out
    c.fd = fd
    c.flags = flags
    c.offset = offset
    return transfer_vector(cython.address(c), vector, count)


def our_pread(fd, buffer, n, offset):
    """pread(2)."""
    if not in_arena(buffer, n):
        return real_pread(fd, buffer, n, offset)
    return at_offset(fd, buffer, n, offset, False)


def our_pread64(fd, buffer, n, offset):
    """pread64(2)."""
    if not in_arena(buffer, n):
        return real_pread64(fd, buffer, n, offset)
    return at_offset(fd, buffer, n, offset, False)


def our_pwrite(fd, buffer, n, offset):
    """pwrite(2)."""
    if not in_arena(buffer, n):
        return real_pwrite(fd, buffer, n, offset)
    return at_offset(fd, buffer, n, offset, True)


def our_pwrite64(fd, buffer, n, offset):
    """pwrite64(2)."""
    if not in_arena(buffer, n):
        return real_pwrite64(fd, buffer, n, offset)
    return at_offset(fd, buffer, n, offset, True)


def our_readv(fd, vector, count):
    """readv(2)."""
    if count < 0 or not vector_in_arena(vector, count):
        return real_readv(fd, vector, count)
    return vector_call(fd, vector, count, False)


def our_writev(fd, vector, count):
    """writev(2)."""
    if count < 0 or not vector_in_arena(vector, count):
        return real_writev(fd, vector, count)
    return vector_call(fd, vector, count, True)


def our_preadv(fd, vector, count, offset):
    """preadv(2)."""
    if count < 0 or not vector_in_arena(vector, count):
        return real_preadv(fd, vector, count, offset)
    return vector_at_offset(fd, vector, count, offset, False)


def our_preadv64(fd, vector, count, offset):
    """preadv64(2)."""
    if count < 0 or not vector_in_arena(vector, count):
        return real_preadv64(fd, vector, count, offset)
    return vector_at_offset(fd, vector, count, offset, False)


def our_pwritev(fd, vector, count, offset):
    """pwritev(2)."""
    if count < 0 or not vector_in_arena(vector, count):
        return real_pwritev(fd, vector, count, offset)
    return vector_at_offset(fd, vector, count, offset, True)


def our_pwritev64(fd, vector, count, offset):
    """pwritev64(2)."""
    if count < 0 or not vector_in_arena(vector, count):
        return real_pwritev64(fd, vector, count, offset)
    return vector_at_offset(fd, vector, count, offset, True)


def our_preadv2(fd, vector, count, offset, flags):
    """preadv2(2)."""
    if count < 0 or not vector_in_arena(vector, count):
        return real_preadv2(fd, vector, count, offset, flags)
    return vector_with_flags(fd, vector, count, offset, flags, False)


def our_preadv64v2(fd, vector, count, offset, flags):
    """preadv64v2(2)."""
    if count < 0 or not vector_in_arena(vector, count):
        return real_preadv64v2(fd, vector, count, offset, flags)
    return vector_with_flags(fd, vector, count, offset, flags, False)


def our_pwritev2(fd, vector, count, offset, flags):
    """pwritev2(2)."""
    if count < 0 or not vector_in_arena(vector, count):
        return real_pwritev2(fd, vector, count, offset, flags)
    return vector_with_flags(fd, vector, count, offset, flags, True)


def our_pwritev64v2(fd, vector, count, offset, flags):
    """pwritev64v2(2)."""
    if count < 0 or not vector_in_arena(vector, count):
        return real_pwritev64v2(fd, vector, count, offset, flags)
    return vector_with_flags(fd, vector, count, offset, flags, True)


def our_getrandom(buffer, n, flags):
    """getrandom(2)."""
    c: call_t
    if not in_arena(buffer, n):
        return real_getrandom(buffer, n, flags)
    memset(cython.address(c), 0, cython.sizeof(c))
    c.one = one_getrandom
    c.how = LOOP
    c.flags = flags
    return transfer(cython.address(c), buffer, n)


def our_getentropy(buffer, n):
    """getentropy(3): all or nothing, at most 256 bytes."""
    if n > 256 or not in_arena(buffer, n):
        return real_getentropy(buffer, n)
    return 0 if our_getrandom(buffer, n, 0) == cython.cast(cython.long, n) else -1


def our_vmsplice(fd, vector, count, flags):
    """vmsplice(2): the pipe gets the pages of a copy, for an array's may leave before they are read."""
    c: call_t
    room: cython.int
    out: cython.int = 0
    if not vector_in_arena(vector, count):
        return real_vmsplice(fd, vector, count, flags)
    memset(cython.address(c), 0, cython.sizeof(c))
    room = pipe_room(fd, cython.address(out))
    c.one = one_vmsplice
    c.out = out
    c.how = WHOLE
    c.kept = max(room, 1)  # no pipe: an error, whatever the bytes
    c.fd = fd
    c.flags = cython.cast(cython.int, flags)
    return transfer_vector(cython.address(c), vector, cython.cast(cython.int, count))


# --- stdio -----------------------------------------------------------------------------------------


def items_in_arena(buffer, size, n):
    """True if one of the items is; False for more bytes than there are addresses."""
    most: uint64_t = cython.cast(uint64_t, 1) << 62
    return size != 0 and n <= most // size and in_arena(buffer, size * n)


def stream_transfer(argument):
    """The whole transfer, in one hold of the stream's lock."""
    s: stream_call_p = cython.cast(stream_call_p, argument)
    got: cython.long = transfer(cython.address(s.call), s.buffer, s.bytes)
    return 0 if got < 0 else cython.cast(uint64_t, got)


def stream_call(reader, writer, buffer, size, n, stream, locked):
    """fread(3) by `reader`, or fwrite(3) by `writer`: the other is NULL. `locked`: they take the stream's lock.

    Counted in items as stdio does: bytes of an item that is not whole are moved and not counted.
    """
    s: stream_call_t
    done: uint64_t
    memset(cython.address(s), 0, cython.sizeof(s))
    s.call.one = one_fread if writer == cython.NULL else one_fwrite
    s.call.out = writer != cython.NULL
    s.call.how = LOOP
    s.call.uncapped = True
    s.call.more = cython.address(s)
    s.fread = reader
    s.fwrite = writer
    s.stream = stream
    s.buffer = buffer
    s.bytes = size * n
    # One piece is one call, which locks by itself. More are not to be mixed with another thread's.
    if locked and s.bytes > PIECE:
        done = with_stream_locked(stream, stream_transfer, cython.address(s))
    else:
        done = stream_transfer(cython.address(s))
    return n if done == s.bytes else done // size


def our_fread(buffer, size, n, stream):
    """fread(3)."""
    if not items_in_arena(buffer, size, n):
        return real_fread(buffer, size, n, stream)
    return stream_call(real_fread, cython.NULL, buffer, size, n, stream, True)


def our_fread_unlocked(buffer, size, n, stream):
    """fread_unlocked(3)."""
    if not items_in_arena(buffer, size, n):
        return real_fread_unlocked(buffer, size, n, stream)
    return stream_call(real_fread_unlocked, cython.NULL, buffer, size, n, stream, False)


def our_fwrite(buffer, size, n, stream):
    """fwrite(3)."""
    if not items_in_arena(buffer, size, n):
        return real_fwrite(buffer, size, n, stream)
    return stream_call(cython.NULL, real_fwrite, buffer, size, n, stream, True)


def our_fwrite_unlocked(buffer, size, n, stream):
    """fwrite_unlocked(3)."""
    if not items_in_arena(buffer, size, n):
        return real_fwrite_unlocked(buffer, size, n, stream)
    return stream_call(cython.NULL, real_fwrite_unlocked, buffer, size, n, stream, False)


# --- what _FORTIFY_SOURCE makes of them ------------------------------------------------------------
# `room` is what the compiler knows of the buffer: where it is too small libc's own function ends the program.


def our_read_chk(fd, buffer, n, room):
    """__read_chk."""
    if n > room or not in_arena(buffer, n):
        return real_read_chk(fd, buffer, n, room)
    return our_read(fd, buffer, n)


def our_pread_chk(fd, buffer, n, offset, room):
    """__pread_chk."""
    if n > room or not in_arena(buffer, n):
        return real_pread_chk(fd, buffer, n, offset, room)
    return at_offset(fd, buffer, n, offset, False)


def our_pread64_chk(fd, buffer, n, offset, room):
    """__pread64_chk."""
    if n > room or not in_arena(buffer, n):
        return real_pread64_chk(fd, buffer, n, offset, room)
    return at_offset(fd, buffer, n, offset, False)


def our_fread_chk(buffer, room, size, n, stream):
    """__fread_chk."""
    if not items_in_arena(buffer, size, n) or size * n > room:
        return real_fread_chk(buffer, room, size, n, stream)
    return our_fread(buffer, size, n, stream)


def our_fread_unlocked_chk(buffer, room, size, n, stream):
    """__fread_unlocked_chk."""
    if not items_in_arena(buffer, size, n) or size * n > room:
        return real_fread_unlocked_chk(buffer, room, size, n, stream)
    return our_fread_unlocked(buffer, size, n, stream)


bounce_setup()
got_add(b"read", cython.cast(cython.p_void, our_read), cython.cast(cython.pp_void, cython.address(real_read)))
got_add(b"write", cython.cast(cython.p_void, our_write), cython.cast(cython.pp_void, cython.address(real_write)))
got_add(b"pread", cython.cast(cython.p_void, our_pread), cython.cast(cython.pp_void, cython.address(real_pread)))
got_add(b"pread64", cython.cast(cython.p_void, our_pread64), cython.cast(cython.pp_void, cython.address(real_pread64)))
got_add(b"pwrite", cython.cast(cython.p_void, our_pwrite), cython.cast(cython.pp_void, cython.address(real_pwrite)))
got_add(
    b"pwrite64", cython.cast(cython.p_void, our_pwrite64), cython.cast(cython.pp_void, cython.address(real_pwrite64))
)
got_add(b"readv", cython.cast(cython.p_void, our_readv), cython.cast(cython.pp_void, cython.address(real_readv)))
got_add(b"writev", cython.cast(cython.p_void, our_writev), cython.cast(cython.pp_void, cython.address(real_writev)))
got_add(b"preadv", cython.cast(cython.p_void, our_preadv), cython.cast(cython.pp_void, cython.address(real_preadv)))
got_add(
    b"preadv64", cython.cast(cython.p_void, our_preadv64), cython.cast(cython.pp_void, cython.address(real_preadv64))
)
got_add(b"pwritev", cython.cast(cython.p_void, our_pwritev), cython.cast(cython.pp_void, cython.address(real_pwritev)))
got_add(
    b"pwritev64", cython.cast(cython.p_void, our_pwritev64), cython.cast(cython.pp_void, cython.address(real_pwritev64))
)
got_add(b"preadv2", cython.cast(cython.p_void, our_preadv2), cython.cast(cython.pp_void, cython.address(real_preadv2)))
got_add(
    b"preadv64v2",
    cython.cast(cython.p_void, our_preadv64v2),
    cython.cast(cython.pp_void, cython.address(real_preadv64v2)),
)
got_add(
    b"pwritev2", cython.cast(cython.p_void, our_pwritev2), cython.cast(cython.pp_void, cython.address(real_pwritev2))
)
got_add(
    b"pwritev64v2",
    cython.cast(cython.p_void, our_pwritev64v2),
    cython.cast(cython.pp_void, cython.address(real_pwritev64v2)),
)
got_add(
    b"getrandom", cython.cast(cython.p_void, our_getrandom), cython.cast(cython.pp_void, cython.address(real_getrandom))
)
got_add(
    b"getentropy",
    cython.cast(cython.p_void, our_getentropy),
    cython.cast(cython.pp_void, cython.address(real_getentropy)),
)
got_add(
    b"vmsplice", cython.cast(cython.p_void, our_vmsplice), cython.cast(cython.pp_void, cython.address(real_vmsplice))
)
got_add(b"fread", cython.cast(cython.p_void, our_fread), cython.cast(cython.pp_void, cython.address(real_fread)))
got_add(
    b"fread_unlocked",
    cython.cast(cython.p_void, our_fread_unlocked),
    cython.cast(cython.pp_void, cython.address(real_fread_unlocked)),
)
got_add(b"fwrite", cython.cast(cython.p_void, our_fwrite), cython.cast(cython.pp_void, cython.address(real_fwrite)))
got_add(
    b"fwrite_unlocked",
    cython.cast(cython.p_void, our_fwrite_unlocked),
    cython.cast(cython.pp_void, cython.address(real_fwrite_unlocked)),
)
got_add(
    b"__read_chk", cython.cast(cython.p_void, our_read_chk), cython.cast(cython.pp_void, cython.address(real_read_chk))
)
got_add(
    b"__pread_chk",
    cython.cast(cython.p_void, our_pread_chk),
    cython.cast(cython.pp_void, cython.address(real_pread_chk)),
)
got_add(
    b"__pread64_chk",
    cython.cast(cython.p_void, our_pread64_chk),
    cython.cast(cython.pp_void, cython.address(real_pread64_chk)),
)
got_add(
    b"__fread_chk",
    cython.cast(cython.p_void, our_fread_chk),
    cython.cast(cython.pp_void, cython.address(real_fread_chk)),
)
got_add(
    b"__fread_unlocked_chk",
    cython.cast(cython.p_void, our_fread_unlocked_chk),
    cython.cast(cython.pp_void, cython.address(real_fread_unlocked_chk)),
)
