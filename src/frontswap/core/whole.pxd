from frontswap.core.layout cimport context_t, pager_t
from frontswap.core.uapi cimport uint8_t, uint32_t, uint64_t

cdef bint huge_own(
    pager_t *pg, uint32_t first, uint32_t n, uint32_t owned, uint32_t word, uint32_t *words) noexcept nogil
cdef void huge_disown(
    pager_t *pg, uint32_t first, uint32_t n, uint32_t owned, uint32_t word, const uint32_t *words) noexcept nogil
cdef void huge_mark(pager_t *pg, uint64_t chunk) noexcept nogil
cdef bint huge_is(pager_t *pg, uint64_t chunk) noexcept nogil
cdef bint huge_take(pager_t *pg, uint64_t chunk) noexcept nogil
cdef bint fresh_take(context_t *ctx) noexcept nogil
cdef int fresh_bring(pager_t *pg, context_t *ctx, uint64_t at) noexcept nogil
cdef void drop(uint8_t *data) noexcept nogil

cdef bint is_so(uint32_t state, uint32_t word, bint any_record) noexcept nogil
