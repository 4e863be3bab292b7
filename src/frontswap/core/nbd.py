"""The block device door: requests of NBD from a socket to the hooks, and their replies, without the GIL.

A thread for each connection does what its client asks for in that order. Nothing but the socket is held while it waits
for the client: neither a page nor a context, so that one who does not read its replies stops nobody else. What a write
brings is stored as it comes, a whole page at a time or by an update of a part; one that breaks off has never been
acknowledged, and each page has its old or its new bytes.

Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
"""

import cython
from cython.cimports.frontswap.core.area import Areas
from cython.cimports.frontswap.core.areapages import (
    IN_BACKEND_STILL,
    area_discard,
    area_enter,
    area_leave,
    area_load,
    area_promote,
    area_replace,
    area_update,
)
from cython.cimports.frontswap.core.contexts import context_give, context_take, populate
from cython.cimports.frontswap.core.keeper import guarded_call
from cython.cimports.frontswap.core.layout import NONE, bytes_p, context_p, pager_p
from cython.cimports.frontswap.core.mappings import MADV_DONTNEED_LOCKED
from cython.cimports.frontswap.core.uapi import (
    EINTR,
    EINVAL,
    EIO,
    ENOMEM,
    ENOSPC,
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_NORESERVE,
    MAP_PRIVATE,
    POLLIN,
    PROT_READ,
    PROT_WRITE,
    add64,
    errno,
    int64_t,
    load32,
    load64,
    loadi,
    madvise,
    mmap,
    munmap,
    poll,
    pollfd,
    storei,
    uint32_t,
    uint64_t,
)
from cython.cimports.libc.string import memcpy, memmove, memset

COUNTER_NAMES = (
    "reads",
    "writes",
    "trims",
    "write_zeroes",
    "flushes",
    "block_status",
    "caches",
    "errors",
    "read_bytes",
    "written_bytes",
)
ENDS = ("", "closed", "disconnect", "broken", "magic", "stopped")

REQUEST_MAGIC = cython.declare(uint32_t, 0x25609513)
SIMPLE_MAGIC = cython.declare(uint32_t, 0x67446698)
STRUCTURED_MAGIC = cython.declare(uint32_t, 0x668E33EF)
READ = cython.declare(cython.int, 0)
WRITE = cython.declare(cython.int, 1)
DISC = cython.declare(cython.int, 2)
FLUSH = cython.declare(cython.int, 3)
TRIM = cython.declare(cython.int, 4)
CACHE = cython.declare(cython.int, 5)
WRITE_ZEROES = cython.declare(cython.int, 6)
BLOCK_STATUS = cython.declare(cython.int, 7)
FLAG_FUA = cython.declare(cython.int, 1)
FLAG_NO_HOLE = cython.declare(cython.int, 2)
FLAG_DF = cython.declare(cython.int, 4)
FLAG_REQ_ONE = cython.declare(cython.int, 8)
FLAG_FAST_ZERO = cython.declare(cython.int, 16)
DONE = cython.declare(cython.int, 1)
CHUNK_OFFSET_DATA = cython.declare(cython.int, 1)
CHUNK_BLOCK_STATUS = cython.declare(cython.int, 5)
CHUNK_ERROR = cython.declare(cython.int, 32769)
CHUNK_ERROR_OFFSET = cython.declare(cython.int, 32770)
HOLE_AND_ZERO = cython.declare(cython.int, 3)
PAGE = cython.declare(uint32_t, 4096)


# --- the socket --------------------------------------------------------------------------------------------------


def wire_wait(w, events):
    """Wait until the socket can be read or written; END_STOPPED: we wait for the client, and the server ends.

    Replies that are ready are for the client to take, until the server shuts the socket down (Server.stop).
    """
    count: cython.int = 2 if events == POLLIN else 1
    fds: pollfd[2]
    fds[0].fd = w.fd
    fds[0].events = events
    fds[1].fd = w.stop_fd
    fds[1].events = POLLIN
    while True:
        fds[0].revents = fds[1].revents = 0
        if poll(fds, count, -1) < 0:
            if errno != EINTR:
                return END_BROKEN
        elif fds[0].revents:
            return GOES_ON  # an error or a hang-up: the call itself says it
        elif fds[1].revents:
            return END_STOPPED


def wire_send(w):
    """Send the replies that are ready."""
    done: uint64_t = 0
    got: cython.Py_ssize_t
    end: cython.int
    while done < w.output_n:
        got = send_some(w.fd, w.output + done, w.output_n - done)
        if got >= 0:
            done += got
        elif errno == EWOULDBLOCK:
            end = wire_wait(w, POLLOUT)
            if end:
                return end
        elif errno != EINTR:
            return END_BROKEN
    if w.output_n > KEPT and madvise(w.output + KEPT, OUTPUT - KEPT, MADV_DONTNEED) != 0:
        madvise(w.output + KEPT, OUTPUT - KEPT, MADV_DONTNEED_LOCKED)  # serve --lock
    w.output_n = 0
    return GOES_ON


def wire_need(w, n):
    """Have the next `n` bytes (INPUT at most) lie at `input_at`. Before it waits for them all replies are sent."""
    got: cython.Py_ssize_t
    end: cython.int
    if w.input_at == w.input_end:
        w.input_at = w.input_end = 0
    if w.input_at + n > INPUT:
        memmove(w.input, w.input + w.input_at, w.input_end - w.input_at)
        w.input_end -= w.input_at
        w.input_at = 0
    while w.input_end - w.input_at < n:
        got = receive(w.fd, w.input + w.input_end, INPUT - w.input_end)
        if got > 0:
            w.input_end += cython.cast(uint32_t, got)
        elif got == 0:
            # It says no more, and may listen still: what was done for it is acknowledged.
            end = wire_send(w)
            return END_CLOSED if end == GOES_ON and w.input_at == w.input_end else END_BROKEN
        elif errno == EWOULDBLOCK:
            end = wire_send(w)
            if end == GOES_ON:
                end = wire_wait(w, POLLIN)
            if end:
                return end
        elif errno != EINTR:
            return END_BROKEN
    return GOES_ON


def wire_room(w, n):
    """Have room for a reply of `n` bytes; a lot of replies goes out first."""
    if w.output_n >= CHUNK or w.output_n + n > OUTPUT:
        return wire_send(w)
    return GOES_ON


def wire_skip(w, n):
    """Take `n` bytes and forget them."""
    part: uint32_t
    end: cython.int
    while n:
        part = n if n < CHUNK else CHUNK
        end = wire_need(w, part)
        if end:
            return END_BROKEN if end == END_CLOSED else end
        w.input_at += part
        n -= part
    return GOES_ON


# --- replies -----------------------------------------------------------------------------------------------------


def nbd_error(error):
    """An errno as the protocol knows it."""
    if error == EDQUOT:
        return ENOSPC
    if error in (0, EINVAL, ENOSPC, ENOMEM, ESHUTDOWN, EOVERFLOW, EOPNOTSUPP):
        return error
    return EIO


def simple_header(at, cookie, error):
    """The 16 bytes of a simple reply; what was read follows them."""
    put32(at, SIMPLE_MAGIC)
    put32(at + 4, nbd_error(error))
    put64(at + 8, cookie)


def simple_reply(x, w, cookie, error):
    """A reply without data."""
    end: cython.int = wire_room(w, 16)
    if end:
        return end
    if error:
        add64(cython.address(x.counters[X_ERRORS]), 1)
    simple_header(w.output + w.output_n, cookie, error)
    w.output_n += 16
    return GOES_ON


def chunk_header(at, flags, type, cookie, length):
    """The first 20 bytes of a chunk of a structured reply."""
    put32(at, STRUCTURED_MAGIC)
    put16(at + 4, flags)
    put16(at + 6, type)
    put64(at + 8, cookie)
    put32(at + 16, length)


def chunk_error(x, w, cookie, error, at):
    """A structured reply that is an error, `at` an offset; -1: of the whole request."""
    end: cython.int = wire_room(w, 40)
    to: bytes_p
    length: uint32_t = 6 if at < 0 else 14
    if end:
        return end
    to = w.output + w.output_n
    add64(cython.address(x.counters[X_ERRORS]), 1)
    chunk_header(to, DONE, CHUNK_ERROR if at < 0 else CHUNK_ERROR_OFFSET, cookie, length)
    put32(to + 20, nbd_error(error))
    put16(to + 24, 0)  # no text
    if at >= 0:
        put64(to + 26, at)
    w.output_n += 20 + length
    return GOES_ON


def error_reply(x, w, cookie, error, at):
    """The reply to a request that is refused or has failed, `at` an offset; -1: nobody knows where."""
    return chunk_error(x, w, cookie, error, at) if w.structured else simple_reply(x, w, cookie, error)


# --- pages -------------------------------------------------------------------------------------------------------


def stored(result):
    """What came of a store, as 0 or an errno. (Of a page that is in a backend, but not written through: that one.)"""
    if result >= 0:
        return 0
    result = -result
    return result - IN_BACKEND_STILL if result > IN_BACKEND_STILL else result


def beyond(x, what, offset, length):
    """Is not all of that in the export? 0 or an errno. Which may be resized: only after area_enter() it stays true."""
    size: uint64_t = cython.cast(uint64_t, load32(cython.address(x.pg.blocks[x.number].pages))) * PAGE
    if offset <= size and length <= size - offset:
        return 0
    return ENOSPC if what == WRITE or what == WRITE_ZEROES else EINVAL


def page_do(x, ctx, what, page, within, n, more, at):
    """READ, WRITE, CACHE, TRIM or WRITE_ZEROES of bytes [within, within + n) of a page, to or from `at`; 0 or an errno.

    `more`: how many pages after it come next.
    """
    pg: pager_p = x.pg
    error: cython.int = 0
    into: bytes_p
    if what == READ:
        # Into its place at once, if it is a whole page.
        into = at if n == PAGE else ctx.plain
        if area_load(pg, ctx, x.number, page, more, into, cython.address(error)) < 0:
            return error if error > 0 else EIO
        if n != PAGE:
            memcpy(at, ctx.plain + within, n)
        return 0
    if what == WRITE and n == PAGE:
        return stored(area_replace(pg, ctx, x.number, page, at))
    if what == WRITE:
        return stored(area_update(pg, ctx, x.number, page, within, n, at))
    if what == CACHE:
        return -area_promote(pg, ctx, x.number, page)
    if n == PAGE:
        return -area_discard(pg, ctx, x.number, page)
    if what == WRITE_ZEROES:
        return stored(area_update(pg, ctx, x.number, page, within, n, cython.NULL))
    return 0  # a part of a page is not worth to be trimmed


def pages_do(x, what, offset, length, at, failed):
    """page_do() for all pages that a range has a part of; 0, or an errno and where in the export it was."""
    ctx: context_p
    within: uint32_t
    n: uint32_t
    turn: cython.int
    more: cython.int
    error: cython.int = 0
    if not area_enter(x.pg, x.number):
        return ESHUTDOWN
    failed[0] = offset
    error = beyond(x, what, offset, length)
    while length and error == 0:
        # Given back now and then: there are few, and a large request is long.
        ctx = context_take(x.pg)
        turn = 0
        while length and turn < TURN and error == 0:
            failed[0] = offset
            within = offset % PAGE
            n = PAGE - within if PAGE - within < length else length
            more = cython.cast(cython.int, (length - n + PAGE - 1) // PAGE)
            error = page_do(x, ctx, what, cython.cast(uint32_t, offset // PAGE), within, n, more, at)
            if at != cython.NULL:
                at += n
            offset += n
            length -= n
            turn += 1
        context_give(ctx)
    area_leave(x.pg, x.number)
    return error


def pages_sync(x):
    """What has been acknowledged is on the base's disk; 0 or an errno. Nothing to do unless it was written through.

    fdatasync(2) reports an error once, and what it could not write may be gone: from then on nobody can promise it.
    """
    got: cython.long
    if not x.written_through:
        return 0
    if not area_enter(x.pg, x.number):
        return ESHUTDOWN
    while True:
        got = guarded_call(SYS_fdatasync, x.pg.areas[x.number].fd, 0, 0, 0)
        if got == 0 or errno != EINTR:
            break
    if got != 0:
        storei(cython.address(x.sync_failed), 1)
    area_leave(x.pg, x.number)
    return EIO if loadi(cython.address(x.sync_failed)) else 0


# --- requests ----------------------------------------------------------------------------------------------------


def check(x, w, r):
    """Is this request allowed? 0 or an errno."""
    allowed: cython.int = FLAG_FUA
    if loadi(cython.address(x.ending)):
        return ESHUTDOWN
    if r.type == READ and w.structured:
        allowed |= FLAG_DF
    elif r.type == WRITE_ZEROES:
        allowed |= FLAG_NO_HOLE | FLAG_FAST_ZERO
    elif r.type == BLOCK_STATUS:
        allowed |= FLAG_REQ_ONE
        if not (w.structured and w.allocation):
            return EINVAL
    if (r.flags & ~allowed) != 0:
        return EINVAL
    if r.type == FLUSH:
        return EINVAL if r.offset or r.length else 0
    if r.type not in (READ, WRITE, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS) or r.length == 0:
        return EINVAL
    if r.type == WRITE_ZEROES and (r.flags & FLAG_FAST_ZERO) != 0 and x.written_through:
        return EOPNOTSUPP  # zeros are written to the base, page by page, where it cannot make holes
    if (r.type == READ or r.type == WRITE) and r.length > MOST_BYTES:
        return EINVAL
    return beyond(x, r.type, r.offset, r.length)


def answer_read(x, w, r, error):
    """READ."""
    head: uint32_t = 28 if w.structured else 16
    failed: uint64_t = r.offset
    where: int64_t = -1
    end: cython.int
    at: bytes_p
    if error == 0:
        end = wire_room(w, head + r.length)
        if end:
            return end
        at = w.output + w.output_n
        # Nothing is sent before all of it is there: a simple reply has no way back.
        error = pages_do(x, READ, r.offset, r.length, at + head, cython.address(failed))
        where = failed
    if error:
        return error_reply(x, w, r.cookie, error, where)
    if w.structured:
        chunk_header(at, DONE, CHUNK_OFFSET_DATA, r.cookie, r.length + 8)
        put64(at + 20, r.offset)
    else:
        simple_header(at, r.cookie, 0)
    w.output_n += head + r.length
    add64(cython.address(x.counters[X_READ_BYTES]), r.length)
    return GOES_ON


def answer_write(x, w, r, error):
    """WRITE. Its bytes are taken off the socket whatever becomes of them."""
    left: uint32_t = r.length
    offset: uint64_t = r.offset
    failed: uint64_t = 0
    n: uint32_t
    end: cython.int
    while left and error == 0:
        n = CHUNK - cython.cast(uint32_t, offset % PAGE)  # so that the next one begins with a page
        n = n if n < left else left
        end = wire_need(w, n)
        if end:
            return END_BROKEN if end == END_CLOSED else end
        error = pages_do(x, WRITE, offset, n, w.input + w.input_at, cython.address(failed))
        w.input_at += n
        offset += n
        left -= n
    end = wire_skip(w, left)
    if end:
        return end
    if error == 0:
        add64(cython.address(x.counters[X_WRITTEN_BYTES]), r.length)
        if (r.flags & FLAG_FUA) != 0:
            error = pages_sync(x)
    return simple_reply(x, w, r.cookie, error)


def answer_status(x, w, r, error):
    """BLOCK_STATUS: extents of what was never written, or trimmed, and of what was."""
    first: uint32_t = x.pg.blocks[x.number].first
    offset: uint64_t = r.offset
    stop: uint64_t = r.offset + r.length
    most: cython.int = 1 if (r.flags & FLAG_REQ_ONE) != 0 else MOST_EXTENTS
    count: cython.int = 0
    last: int64_t = -1
    flags: int64_t
    n: uint64_t
    end: cython.int
    at: bytes_p
    if error:
        return error_reply(x, w, r.cookie, error, -1)
    end = wire_room(w, 24 + 8 * MOST_EXTENTS)
    if end:
        return end
    if not area_enter(x.pg, x.number):
        return error_reply(x, w, r.cookie, ESHUTDOWN, -1)
    error = beyond(x, BLOCK_STATUS, r.offset, r.length)
    if error:
        area_leave(x.pg, x.number)
        return error_reply(x, w, r.cookie, error, -1)
    at = w.output + w.output_n + 24
    while offset < stop:
        n = PAGE - offset % PAGE
        n = n if n < stop - offset else stop - offset
        flags = (
            HOLE_AND_ZERO
            if load32(cython.address(x.pg.pages[first + cython.cast(uint32_t, offset // PAGE)].state)) == NONE
            else 0
        )
        if flags != last:
            if count == most:
                break
            count += 1
            put32(at + 8 * (count - 1), 0)
            put32(at + 8 * (count - 1) + 4, cython.cast(uint32_t, flags))
            last = flags
        put32(at + 8 * (count - 1), get32(at + 8 * (count - 1)) + cython.cast(uint32_t, n))
        offset += n
    area_leave(x.pg, x.number)
    at = w.output + w.output_n
    chunk_header(at, DONE, CHUNK_BLOCK_STATUS, r.cookie, 4 + 8 * count)
    put32(at + 20, ALLOCATION)
    w.output_n += 24 + 8 * count
    return GOES_ON


def answer(x, w, r):
    """Do what a request wants, and have the reply ready to be sent."""
    error: cython.int = check(x, w, r)
    failed: uint64_t = 0
    if r.type == READ:
        add64(cython.address(x.counters[X_READS]), 1)
        return answer_read(x, w, r, error)
    if r.type == WRITE:
        add64(cython.address(x.counters[X_WRITES]), 1)
        return answer_write(x, w, r, error)
    if r.type == BLOCK_STATUS:
        add64(cython.address(x.counters[X_BLOCK_STATUS]), 1)
        return answer_status(x, w, r, error)
    if r.type == FLUSH:
        add64(cython.address(x.counters[X_FLUSHES]), 1)
        if error == 0:
            error = pages_sync(x)
    elif r.type == CACHE:
        add64(cython.address(x.counters[X_CACHES]), 1)
        if error == 0:
            error = pages_do(x, CACHE, r.offset, r.length, cython.NULL, cython.address(failed))
    elif r.type == TRIM or r.type == WRITE_ZEROES:
        add64(cython.address(x.counters[X_TRIMS if r.type == TRIM else X_WRITE_ZEROES]), 1)
        if error == 0:
            error = pages_do(x, r.type, r.offset, r.length, cython.NULL, cython.address(failed))
        if error == 0 and (r.flags & FLAG_FUA) != 0:
            error = pages_sync(x)
    return simple_reply(x, w, r.cookie, error)


def transmission(x, w):
    """Answer requests until there are no more; END_*."""
    r: nbd_request_t
    end: cython.int
    at: bytes_p
    while True:
        end = wire_need(w, HEADER)
        if end:
            return end
        at = w.input + w.input_at
        if get32(at) != REQUEST_MAGIC:
            return END_MAGIC
        r.flags = get16(at + 4)
        r.type = get16(at + 6)
        r.cookie = get64(at + 8)
        r.offset = get64(at + 16)
        r.length = get32(at + 24)
        w.input_at += HEADER
        if r.type == DISC:
            end = wire_send(w)
            return end if end else END_DISCONNECT
        end = answer(x, w, cython.address(r))
        if end:
            return end


class Export:
    """A swap area as NBD clients see it. It must be on, and its hooks open, as long as anybody transmits."""

    def __cinit__(self, areas: Areas, *, type: int, written_through: bool):
        """`type`: of the area, with pages of 4096 bytes. Its size is the export's. `written_through`: docs/serve.md."""
        memset(cython.address(self.x), 0, cython.sizeof(self.x))
        self.areas = areas
        self.x.pg = areas.pg
        self.x.number = type + 1
        self.x.written_through = written_through

    def transmit(self, fd: int, stop_fd: int, structured: bool, allocation: bool) -> str:
        """Serve the client behind a socket until it goes; how it went: one of ENDS.

        The socket stays open. When `stop_fd` becomes readable a client that says nothing is left alone.
        """
        w: wire_t
        end: cython.int
        memset(cython.address(w), 0, cython.sizeof(w))
        w.fd = fd
        w.stop_fd = stop_fd
        w.structured = structured
        w.allocation = allocation
        # All that is needed to take pages is there from the beginning: memory may be short when they come.
        w.input = cython.cast(
            bytes_p,
            mmap(
                cython.NULL,
                INPUT + OUTPUT,
                PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                -1,
                0,
            ),
        )
        if cython.cast(int64_t, w.input) == -1:
            raise MemoryError("frontswap: no memory for the buffers of a connection")
        w.output = w.input + INPUT
        with cython.nogil:
            populate(w.input, INPUT + KEPT)
            back_stack()
            end = transmission(cython.address(self.x), cython.address(w))
            munmap(w.input, INPUT + OUTPUT)
        return ENDS[end]

    def end(self) -> None:
        """From now on every request is answered with ESHUTDOWN."""
        storei(cython.address(self.x.ending), 1)

    def sync(self) -> bool:
        """Have all that was written through on the disk. False: that cannot be promised, for an error now or before."""
        error: cython.int
        with cython.nogil:
            error = pages_sync(cython.address(self.x))
        return error == 0

    def counters(self) -> dict[str, int]:
        """What clients have asked for."""
        return {name: load64(cython.address(self.x.counters[i])) for i, name in enumerate(COUNTER_NAMES)}
