from frontswap.core.layout cimport block_t, pager_t
from frontswap.core.uapi cimport int64_t, uint32_t, uint64_t

cdef uint32_t pager_zap(
    pager_t *pg, block_t *block, uint32_t first, uint32_t count, bint freeing) noexcept nogil

cdef int64_t mapped(pager_t *pg) noexcept nogil
cdef bint zap_unregistered(pager_t *pg, uint64_t low, uint64_t high, bint zeros) noexcept nogil

cdef void zap_run(pager_t *pg, block_t *block, uint32_t first, uint32_t count, uint32_t resident,
    uint32_t untouched) noexcept nogil
