from frontswap.core.layout cimport context_t, pager_t
from frontswap.core.uapi cimport int64_t, uint8_t, uint32_t

cdef int64_t hooks_store(pager_t *pg, uint32_t number, const uint8_t *data, int64_t pages) noexcept nogil
cdef int64_t hooks_load(pager_t *pg, uint32_t number, uint8_t *into, int64_t pages) noexcept nogil
cdef int64_t backend_store(pager_t *pg, context_t *ctx, uint32_t number, const uint8_t *data, int64_t pages,
                           uint32_t *states) noexcept nogil
cdef int64_t backend_load(pager_t *pg, context_t *ctx, uint32_t number, uint8_t *into, int64_t pages,
                          const uint32_t *states) noexcept nogil
cdef int64_t backend_round(pager_t *pg, uint32_t number, const uint8_t *data, uint8_t *into, int64_t pages,
                           uint32_t *states, int64_t *nanoseconds) noexcept nogil
cdef int64_t alternate(pager_t *pg, uint32_t number, const uint8_t *data, uint8_t *into, int64_t pages,
                       uint32_t *states, int64_t *times, int64_t rounds) noexcept nogil
