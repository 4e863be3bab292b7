from frontswap.core.layout cimport context_t, pager_t, segment_t, walk_t
from frontswap.core.uapi cimport int64_t, uint8_t, uint32_t, uint64_t

cdef int64_t clean_ram(pager_t *pg, context_t *ctx) noexcept nogil
cdef int clean_disk(pager_t *pg) noexcept nogil

cdef void rested(pager_t *pg) noexcept nogil
cdef int64_t segment_clean(pager_t *pg, context_t *ctx, uint32_t number) noexcept nogil
cdef int64_t records_move(
    pager_t *pg, context_t *ctx, uint32_t number, uint8_t *data, int stream) noexcept nogil
cdef void record_left(pager_t *pg, walk_t *walk, uint64_t place, int stream) noexcept nogil
cdef int64_t pack_move(pager_t *pg, context_t *ctx, walk_t *walk, int stream) noexcept nogil
cdef uint64_t member_alone(pager_t *pg, context_t *ctx, walk_t *walk) noexcept nogil
cdef bint is_resting(pager_t *pg, segment_t *s) noexcept nogil
cdef uint32_t emptiest(pager_t *pg, uint32_t state) noexcept nogil
