from frontswap.core.layout cimport pager_t
from frontswap.core.uapi cimport int64_t, uint32_t

cdef enum:                    # why a limit stays as it is; positive values as those of arena_allocate()
    LIMIT_ALLOCATED = -11     # without a swap file: less than what is allocated
    LIMIT_PINNED = -12        # more than half of it would be pinned

cdef int64_t limit_least(pager_t *pg) noexcept nogil
cdef int limit_change(pager_t *pg, int64_t limit, uint32_t page_most, int64_t allocate) noexcept nogil
cdef int limit_step(pager_t *pg, int64_t limit) noexcept nogil
cdef bint limit_keep(pager_t *pg) noexcept nogil
cdef bint limit_shed(pager_t *pg) noexcept nogil
cdef int64_t limit_charged(pager_t *pg) noexcept nogil
cdef uint32_t page_most_for(int64_t limit) noexcept nogil
