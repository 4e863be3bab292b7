from frontswap.core.layout cimport context_t, pager_t
from frontswap.core.uapi cimport int64_t, uint8_t, uint32_t

cdef int zcache_store(
    pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data, uint32_t *kind) noexcept nogil
cdef int record_make(pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data) noexcept nogil
cdef void *writeback_thread(void *argument) noexcept nogil
cdef int64_t pool_limit(pager_t *pg, int64_t most) noexcept nogil
cdef bint pool_is_sparse(pager_t *pg) noexcept nogil
