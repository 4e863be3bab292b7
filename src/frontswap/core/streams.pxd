from frontswap.core.layout cimport block_t, pager_t, request_t, stream_t
from frontswap.core.uapi cimport int64_t, uint32_t, uint64_t

cdef enum:
    JUMPS = 2                 # a direction, beside 1 and -1
    ALONE = 32                # so many more faults that are alone than others want small pages
    ALONE_MOST = 64
    MOST_TURNS = 6

cdef int stream_note(pager_t *pg, block_t *block, uint32_t index, int64_t at, uint32_t chunk,
                     bint whole) noexcept nogil
cdef bint is_walked(block_t *block, uint32_t index) noexcept nogil
cdef void readahead_request(
    pager_t *pg, uint32_t first, uint32_t count, int direction, bint whole) noexcept nogil
cdef bint request_take(pager_t *pg, request_t *request) noexcept nogil
cdef void readahead_wake(pager_t *pg) noexcept nogil
cdef uint32_t request_page(const request_t *request, uint32_t i) noexcept nogil

cdef bint is_beside(block_t *block, uint32_t index) noexcept nogil
cdef void lean(pager_t *pg, block_t *block, int by) noexcept nogil
cdef int follows(stream_t *s, uint32_t index) noexcept nogil
cdef int64_t jumps(const stream_t *s, int64_t at) noexcept nogil
cdef int64_t trend(block_t *block, int64_t at) noexcept nogil
cdef int64_t majority(const block_t *block, uint32_t lag, uint32_t n) noexcept nogil
cdef uint32_t window_of(pager_t *pg, block_t *block, stream_t *s) noexcept nogil
cdef void stream_along(
    pager_t *pg, block_t *block, stream_t *s, uint32_t index, uint32_t chunk, bint whole) noexcept nogil
cdef void stream_chunks(
    pager_t *pg, block_t *block, stream_t *s, uint32_t index, uint32_t chunk, bint whole) noexcept nogil
cdef bint is_left(uint32_t index, uint32_t start, uint32_t chunk) noexcept nogil
cdef void stream_jump(pager_t *pg, block_t *block, stream_t *s, int64_t at) noexcept nogil
cdef void request_add(pager_t *pg, const request_t *request) noexcept nogil
