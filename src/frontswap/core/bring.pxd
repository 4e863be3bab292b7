from frontswap.core.layout cimport block_t, context_t, pager_t
from frontswap.core.spot cimport spot_t
from frontswap.core.uapi cimport int64_t, uint32_t, uint64_t

cdef uint32_t came_back(pager_t *pg, context_t *ctx, uint32_t size, uint32_t state) noexcept nogil
cdef bint gives_up(pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, bint soon) noexcept nogil
cdef bint comes_in(pager_t *pg, uint32_t page) noexcept nogil
cdef uint32_t whole_pages(pager_t *pg, block_t *block) noexcept nogil
cdef bint bring_asked(pager_t *pg, const spot_t *spot, bint write, context_t **ctx) noexcept nogil
cdef bint bring_huge(
    pager_t *pg, context_t **ctx, uint32_t page, bint write, bint ahead, uint32_t index, int64_t at) noexcept nogil
cdef bint write_huge(pager_t *pg, uint32_t page, uint32_t state) noexcept nogil

cdef bint is_chunk(pager_t *pg, uint32_t number, uint32_t first, uint32_t n) noexcept nogil
cdef bint arrive(
    pager_t *pg, context_t *ctx, uint32_t first, uint32_t n, uint32_t *words, bint write) noexcept nogil
cdef void complete(pager_t *pg, context_t *ctx, uint64_t address) noexcept nogil
cdef bint is_dirty(pager_t *pg, uint32_t page) noexcept nogil
