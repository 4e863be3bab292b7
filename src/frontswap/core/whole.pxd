from frontswap.core.layout cimport context_t, pager_t
from frontswap.core.uapi cimport uint8_t, uint32_t, uint64_t

cdef bint huge_own(
    pager_t *pg, uint32_t first, uint32_t n, uint32_t owned, uint32_t word, uint32_t *words) noexcept nogil
cdef void huge_disown(
    pager_t *pg, uint32_t first, uint32_t n, uint32_t owned, uint32_t word, const uint32_t *words) noexcept nogil
cdef void huge_mark(pager_t *pg, uint64_t chunk) noexcept nogil
cdef bint huge_is(pager_t *pg, uint64_t chunk) noexcept nogil
cdef bint huge_take(pager_t *pg, uint64_t chunk) noexcept nogil
cdef uint8_t *frame_for(pager_t *pg) noexcept nogil
cdef void frame_give(pager_t *pg, uint8_t *frame, bint whole) noexcept nogil
cdef void frames_trim(pager_t *pg, int most) noexcept nogil
cdef uint8_t *fresh_take(pager_t *pg, context_t *ctx) noexcept nogil
cdef void fresh_gone(pager_t *pg, context_t *ctx, uint8_t *data) noexcept nogil
cdef void fresh_give(pager_t *pg, context_t *ctx, uint8_t *data, bint whole) noexcept nogil

cdef bint is_so(uint32_t state, uint32_t word, bint any_record) noexcept nogil
cdef int frame_number(pager_t *pg, const uint8_t *frame) noexcept nogil
cdef uint8_t *frame_take(pager_t *pg, int wanted) noexcept nogil
cdef void frame_gone(pager_t *pg, uint8_t *frame) noexcept nogil
cdef void drop(uint8_t *data) noexcept nogil
