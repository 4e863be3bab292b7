from frontswap.core.layout cimport context_t, pager_t
from frontswap.core.uapi cimport int64_t, uint32_t

cdef uint32_t spans(pager_t *pg) noexcept nogil
cdef uint32_t span(pager_t *pg, uint32_t i, uint32_t *end) noexcept nogil
cdef uint32_t last_page(pager_t *pg) noexcept nogil
cdef int64_t drain_pass(pager_t *pg, int number, int64_t until) noexcept nogil
cdef int64_t shrink_to(pager_t *pg, int64_t target, int64_t until) noexcept nogil
cdef int64_t pages_in_backends(pager_t *pg) noexcept nogil

cdef int drain_page(pager_t *pg, context_t *ctx, uint32_t page, int number) noexcept nogil
cdef int pull_back(pager_t *pg, context_t *ctx, uint32_t page) noexcept nogil
