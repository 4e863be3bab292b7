from frontswap.core.layout cimport context_t, pager_t
from frontswap.core.uapi cimport int64_t, uint32_t

cdef uint32_t page_own(pager_t *pg, uint32_t page) noexcept nogil
cdef int shed_victims(pager_t *pg, context_t *ctx) noexcept nogil
cdef void pool_make_room(pager_t *pg, context_t *ctx, uint32_t coming, int64_t pages) noexcept nogil

cdef int64_t shed_victim(pager_t *pg, context_t *ctx, uint32_t coming) noexcept nogil
