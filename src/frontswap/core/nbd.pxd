# The transmission phase of NBD, as in https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md

from frontswap.core.layout cimport context_t, pager_t
from frontswap.core.uapi cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <endian.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/syscall.h>

    static inline ssize_t fs_receive(int fd, void *at, size_t n) { return recv(fd, at, n, MSG_DONTWAIT); }
    static inline ssize_t fs_send(int fd, const void *at, size_t n) {
        return send(fd, at, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    /* A thread's stack is backed as it is used; this is more than a request's way takes of it. */
    static __attribute__((noinline)) void fs_back_stack(void) {
        volatile char stack[256 << 10];
        for (size_t i = 0; i < sizeof stack; i += 4096) stack[i] = 0;
    }
    static inline uint16_t fs_get16(const uint8_t *at) { uint16_t v; memcpy(&v, at, 2); return be16toh(v); }
    static inline uint32_t fs_get32(const uint8_t *at) { uint32_t v; memcpy(&v, at, 4); return be32toh(v); }
    static inline uint64_t fs_get64(const uint8_t *at) { uint64_t v; memcpy(&v, at, 8); return be64toh(v); }
    static inline void fs_put16(uint8_t *at, uint16_t v) { v = htobe16(v); memcpy(at, &v, 2); }
    static inline void fs_put32(uint8_t *at, uint32_t v) { v = htobe32(v); memcpy(at, &v, 4); }
    static inline void fs_put64(uint8_t *at, uint64_t v) { v = htobe64(v); memcpy(at, &v, 8); }
    """
    ctypedef long ssize_t
    ssize_t receive "fs_receive"(int fd, void *at, size_t n)
    ssize_t send_some "fs_send"(int fd, const void *at, size_t n)
    void back_stack "fs_back_stack"()
    uint16_t get16 "fs_get16"(const uint8_t *at)
    uint32_t get32 "fs_get32"(const uint8_t *at)
    uint64_t get64 "fs_get64"(const uint8_t *at)
    void put16 "fs_put16"(uint8_t *at, uint16_t v)
    void put32 "fs_put32"(uint8_t *at, uint32_t v)
    void put64 "fs_put64"(uint8_t *at, uint64_t v)
    const int SYS_fdatasync, POLLOUT
    const int EWOULDBLOCK, EDQUOT, ESHUTDOWN, EOVERFLOW, EOPNOTSUPP

cdef enum:
    MOST_BYTES = 32 << 20     # of one request, but for what only names pages
    CHUNK = 256 << 10         # of a write that are stored at once; replies are sent when there are so many
    INPUT = 2 * CHUNK
    OUTPUT = MOST_BYTES + 2 * CHUNK
    KEPT = 2 * CHUNK          # of the replies' buffer, which stay in RAM
    TURN = 64                 # pages for which a context is held
    MOST_EXTENTS = 8192
    HEADER = 28               # bytes of a request
    ALLOCATION = 1            # id of the context base:allocation

cdef enum:                    # why a transmission has ended
    GOES_ON = 0
    END_CLOSED = 1            # the client has hung up, between two requests
    END_DISCONNECT = 2        # NBD_CMD_DISC
    END_BROKEN = 3            # in the middle of a request or a reply
    END_MAGIC = 4             # this is no request
    END_STOPPED = 5           # we have

cdef enum:                    # counters of an export
    X_READS = 0
    X_WRITES
    X_TRIMS
    X_WRITE_ZEROES
    X_FLUSHES
    X_BLOCK_STATUS
    X_CACHES
    X_ERRORS                  # requests answered with an error
    X_READ_BYTES
    X_WRITTEN_BYTES
    X_COUNTERS

ctypedef struct export_t:
    pager_t *pg
    uint32_t number           # of its area, as layout.pxd counts them
    bint written_through      # each write is in the slots before its reply
    int32_t ending            # 1: every request is answered with ESHUTDOWN
    int32_t sync_failed       # 1: a sync has failed, so what it was for may be lost: no later one can promise it
    int64_t counters[X_COUNTERS]

ctypedef struct wire_t:       # a connection
    int fd
    int stop_fd               # readable: the server ends
    bint structured           # replies
    bint allocation           # the client has chosen base:allocation
    uint8_t *input            # [input_at, input_end) has come and is not used yet
    uint32_t input_at
    uint32_t input_end
    uint8_t *output           # [0, output_n) is not sent yet
    uint64_t output_n

ctypedef struct nbd_request_t:
    uint16_t flags
    uint16_t type
    uint64_t cookie
    uint64_t offset
    uint32_t length

ctypedef export_t *export_p
ctypedef wire_t *wire_p
ctypedef nbd_request_t *nbd_request_p

cdef class Export:
    cdef export_t x
    cdef object areas

cdef int wire_wait(wire_t *w, short events) noexcept nogil
cdef int wire_send(wire_t *w) noexcept nogil
cdef int wire_need(wire_t *w, uint32_t n) noexcept nogil
cdef int wire_room(wire_t *w, uint64_t n) noexcept nogil
cdef int wire_skip(wire_t *w, uint32_t n) noexcept nogil

cdef uint32_t nbd_error(int error) noexcept nogil
cdef void simple_header(uint8_t *at, uint64_t cookie, int error) noexcept nogil
cdef int simple_reply(export_t *x, wire_t *w, uint64_t cookie, int error) noexcept nogil
cdef void chunk_header(uint8_t *at, uint16_t flags, uint16_t type, uint64_t cookie, uint32_t length) noexcept nogil
cdef int chunk_error(export_t *x, wire_t *w, uint64_t cookie, int error, int64_t at) noexcept nogil
cdef int error_reply(export_t *x, wire_t *w, uint64_t cookie, int error, int64_t at) noexcept nogil

cdef int beyond(export_t *x, int what, uint64_t offset, uint64_t length) noexcept nogil
cdef int page_do(
    export_t *x, context_t *ctx, int what, uint32_t page, uint32_t within, uint32_t n, int more,
    uint8_t *at) noexcept nogil
cdef int pages_do(export_t *x, int what, uint64_t offset, uint32_t length, uint8_t *at, uint64_t *failed) noexcept nogil
cdef int pages_sync(export_t *x) noexcept nogil
cdef int stored(int result) noexcept nogil

cdef int check(export_t *x, wire_t *w, nbd_request_t *r) noexcept nogil
cdef int answer(export_t *x, wire_t *w, nbd_request_t *r) noexcept nogil
cdef int answer_read(export_t *x, wire_t *w, nbd_request_t *r, int error) noexcept nogil
cdef int answer_write(export_t *x, wire_t *w, nbd_request_t *r, int error) noexcept nogil
cdef int answer_status(export_t *x, wire_t *w, nbd_request_t *r, int error) noexcept nogil
cdef int transmission(export_t *x, wire_t *w) noexcept nogil
