from frontswap.core.layout cimport block_t, pager_t
from frontswap.core.uapi cimport lock_t, uint32_t, uint64_t

cdef enum:                    # what a piece is: the bits of `opened`, `fixed` and `gone`
    PIECE = 4096
    CLOSED = 0
    OPEN = 1
    HIDDEN = 2
    GUARDED = 3
    ENDED = 4
    FOREIGN = 5
    IS_OPENED = 1
    IS_FIXED = 2
    IS_GONE = 4

cdef lock_t protect_lock      # one mprotect() at a time

cdef uint32_t piece_kind(pager_t *pg, uint64_t at) noexcept nogil
cdef uint64_t piece_run(pager_t *pg, uint64_t at, uint64_t end, uint32_t *kind) noexcept nogil
cdef uint64_t piece_count(pager_t *pg, uint64_t at, uint64_t end, uint32_t kind) noexcept nogil
cdef void piece_set(pager_t *pg, uint64_t low, uint64_t high, uint32_t kind) noexcept nogil
cdef uint64_t held_run(pager_t *pg, uint64_t *at, uint64_t end) noexcept nogil
cdef uint64_t foreign_run(pager_t *pg, uint64_t *at, uint64_t end) noexcept nogil

cdef bint word_is(pager_t *pg, uint64_t word, uint32_t kind) noexcept nogil
cdef void bits_set(uint32_t *words, uint64_t low, uint64_t high, bint on) noexcept nogil
