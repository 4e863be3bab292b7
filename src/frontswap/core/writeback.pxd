from frontswap.core.layout cimport context_t, pager_t
from frontswap.core.uapi cimport int64_t, uint32_t

cdef bint writeback_step(pager_t *pg, context_t *ctx, int *idle) noexcept nogil
cdef void *writeback_thread(void *argument) noexcept nogil
cdef int64_t pool_relieve(pager_t *pg) noexcept nogil

cdef int victims_write(pager_t *pg, context_t *ctx) noexcept nogil
cdef int pool_lighten(pager_t *pg, context_t *ctx) noexcept nogil
cdef int shed_coldest(pager_t *pg, context_t *ctx) noexcept nogil
