from frontswap.core.layout cimport block_t
from frontswap.core.uapi cimport int64_t, uint32_t, uint64_t

cdef enum:
    UNREGISTERED = -1         # the arena must be registered first: a page has a state only then

cdef bint reserve_wanted(uint64_t n, int protection, int flags) noexcept nogil
cdef void *reserve_take(uint64_t n) noexcept nogil
cdef int reserve_protect(block_t *block, uint64_t low, uint64_t high, int protection) noexcept nogil
cdef int reserve_empty(block_t *block, uint64_t low, uint64_t high, bint zeros) noexcept nogil
cdef int reserve_drop(block_t *block, uint64_t low, uint64_t high) noexcept nogil
cdef int reserve_map(
    block_t *block, uint64_t low, uint64_t high, int protection, int flags, int fd, long offset) noexcept nogil

cdef void reserve_end(uint64_t address) noexcept nogil
cdef int protect(uint64_t low, uint64_t high, int protection) noexcept nogil
cdef uint32_t page_at(block_t *block, uint64_t at) noexcept nogil
cdef int count(int64_t bytes) noexcept nogil
cdef void uncount(uint64_t bytes) noexcept nogil
cdef bint ended(block_t *block, uint64_t low, uint64_t high) noexcept nogil
cdef void zap(block_t *block, uint64_t low, uint64_t high) noexcept nogil
cdef void unpin(block_t *block, uint64_t low, uint64_t high) noexcept nogil
cdef bint is_pinned(block_t *block, uint64_t at) noexcept nogil
cdef int pin(block_t *block, uint64_t low, uint64_t high, bint hidden) noexcept nogil
cdef int page_shut(block_t *block, uint64_t at) noexcept nogil
cdef void reopen(block_t *block, uint64_t low, uint64_t high) noexcept nogil
cdef int open_run(block_t *block, uint64_t low, uint64_t high, uint32_t kind) noexcept nogil
cdef int hide_run(block_t *block, uint64_t low, uint64_t high, uint32_t kind) noexcept nogil
cdef int guard_run(block_t *block, uint64_t low, uint64_t high, uint32_t kind, int protection) noexcept nogil
cdef int shut_again(block_t *block, uint64_t low, uint64_t high, uint32_t kind, int error) noexcept nogil
cdef int close_run(block_t *block, uint64_t low, uint64_t high, uint32_t kind) noexcept nogil
cdef int close_all(block_t *block, uint64_t low, uint64_t high) noexcept nogil
cdef void empty_run(block_t *block, uint64_t low, uint64_t high, uint32_t kind, bint zeros) noexcept nogil
