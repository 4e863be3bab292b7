from frontswap.core.layout cimport context_t, pager_t
from frontswap.core.uapi cimport int64_t, uint8_t, uint32_t, uint64_t

cdef int evict_page(pager_t *pg, context_t *ctx, uint32_t page, uint32_t low, uint32_t high) noexcept nogil
cdef void uncharge(pager_t *pg, int64_t bytes) noexcept nogil
cdef int64_t evict_clean(pager_t *pg, uint32_t *pages, uint32_t *states, int n) noexcept nogil
cdef int64_t evict_dirty(pager_t *pg, context_t *ctx, uint32_t *pages, uint32_t *states, int n) noexcept nogil
cdef bint fill_holes_of(pager_t *pg, uint32_t page, uint32_t *state) noexcept nogil
cdef int64_t evict_huge(pager_t *pg, context_t *ctx, uint32_t page, uint32_t low, uint32_t high) noexcept nogil
cdef uint32_t dirty_word(uint32_t state) noexcept nogil
cdef bint make_sure(pager_t *pg, uint32_t page, uint32_t *state) noexcept nogil
cdef int64_t evict_huge_clean(
    pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, uint32_t low, uint32_t high) noexcept nogil

cdef int run_from(pager_t *pg, const uint32_t *pages, int i, int n) noexcept nogil
cdef int close_clean(pager_t *pg, uint32_t *pages, uint32_t *states, int n) noexcept nogil
cdef int64_t evict_group(pager_t *pg, context_t *ctx, uint32_t *pages, uint32_t *states, int n) noexcept nogil
cdef void take_run(
    pager_t *pg, uint8_t *to, uint32_t *pages, uint32_t *states, int n, uint8_t **data
) noexcept nogil
cdef uint32_t huge_first(pager_t *pg, uint32_t page, uint32_t low, uint32_t high) noexcept nogil
cdef void huge_gone(pager_t *pg) noexcept nogil
cdef int64_t let_go(pager_t *pg, uint32_t *pages, uint32_t *words, int n, bint drop) noexcept nogil
cdef void put_back(pager_t *pg, const uint8_t *data, uint64_t address, uint32_t size) noexcept nogil
cdef uint32_t out_word(pager_t *pg, uint32_t kind) noexcept nogil
