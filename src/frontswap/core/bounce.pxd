from frontswap.core.layout cimport pager_t
from frontswap.core.posixio cimport pthread_key_t, ssize_t
from frontswap.core.uapi cimport int32_t, int64_t, iovec, uint8_t, uint64_t

cdef enum:
    PIECE = 262144            # bytes of a transfer that pass at once; a multiple of every block size of O_DIRECT
    UNALIGNED = 4096          # the data starts where the program's does in its page
    MOST_VECTOR = 1024        # IOV_MAX
    MOST_BYTES = 0x7FFFF000   # what one system call moves at most (MAX_RW_COUNT)
    CACHED_KEYS = 32          # keys of glibc that pthread_setspecific() needs no malloc for

cdef enum:                    # how a transfer of more than one piece is made
    BY_DESCRIPTOR = 0         # the descriptor says
    LOOP                      # piece by piece, until one is short
    ONE_PIECE                 # one call of a piece: a short count is allowed
    WHOLE                     # one call of all of it: a message

# A call of libc that moves bytes, as the transfer sees it.
cdef struct call_t
ctypedef ssize_t (*one_function)(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef struct call_t:
    one_function one          # makes the real call for `n` bytes, after `done` have been moved
    bint out                  # from memory
    int how
    bint uncapped             # stdio: more than MOST_BYTES
    uint64_t kept             # the kernel keeps the buffer's pages, so many bytes at most: it is not used again
    int fd
    int flags
    int64_t offset
    void *more                # what else `one` needs

ctypedef struct region_t:     # one a thread
    int32_t busy              # by the call that this thread has been interrupted in
    int32_t temporary
    void *larger              # what the transfer has mapped besides, while it lasts
    uint64_t larger_bytes
    iovec vector[MOST_VECTOR]

ctypedef region_t *region_p

ctypedef struct cursor_t:     # a place in the program's buffers
    const iovec *vector
    uint64_t offset           # in vector[0]

cdef pthread_key_t key
cdef int32_t has_key

cdef void bounce_setup() noexcept nogil
cdef ssize_t transfer(call_t *c, const void *buffer, uint64_t n) noexcept nogil
cdef ssize_t transfer_vector(call_t *c, const iovec *vector, int count) noexcept nogil
cdef int64_t vector_bytes(const iovec *vector, int count) noexcept nogil
cdef bint vector_in_arena(const iovec *vector, uint64_t count) noexcept nogil

cdef void *map_bytes(uint64_t n) noexcept nogil
cdef void drop_region(void *region) noexcept nogil
cdef region_t *take_region() noexcept nogil
cdef void give_region(region_t *region) noexcept nogil
cdef void copy(cursor_t *at, uint8_t *piece, uint64_t n, bint out) noexcept nogil
cdef uint64_t within_reach(call_t *c, const iovec *vector, int count, uint64_t total) noexcept nogil
cdef int how_to(const call_t *c) noexcept nogil
cdef ssize_t move(call_t *c, region_t *region, const iovec *vector, uint64_t total) noexcept nogil
