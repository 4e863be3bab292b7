from frontswap.core.layout cimport context_t, pager_t
from frontswap.core.uapi cimport int64_t, uint32_t

cdef uint32_t page_own(pager_t *pg, uint32_t page) noexcept nogil
cdef int close_all(pager_t *pg) noexcept nogil
cdef int shed_victims(pager_t *pg, context_t *ctx) noexcept nogil
cdef void pool_make_room(
    pager_t *pg, context_t *ctx, uint32_t number, uint32_t coming, int64_t pages) noexcept nogil
cdef bint area_reclaim(pager_t *pg, uint32_t number, int64_t target, int64_t until) noexcept nogil
cdef int64_t page_shed(pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, uint32_t told) noexcept nogil

cdef uint32_t hand_next(pager_t *pg, uint32_t number, uint32_t *state) noexcept nogil
cdef int64_t room_for(int64_t each, int64_t pages, int64_t most) noexcept nogil
cdef void quota_make_room(pager_t *pg, context_t *ctx, uint32_t number, int64_t pages) noexcept nogil
cdef int64_t shed_of(pager_t *pg, context_t *ctx, uint32_t number, uint32_t inside) noexcept nogil
cdef int64_t shed_next(pager_t *pg, context_t *ctx, uint32_t coming, uint32_t inside) noexcept nogil
cdef int64_t shed_victim(pager_t *pg, context_t *ctx, uint32_t coming) noexcept nogil
