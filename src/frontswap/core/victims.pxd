from frontswap.core.layout cimport pager_t
from frontswap.core.uapi cimport int64_t, uint32_t

cdef int pool_write(pager_t *pg, int64_t most) noexcept nogil

cdef int victims_leave(pager_t *pg, int64_t most) noexcept nogil
cdef int64_t pool_records(pager_t *pg) noexcept nogil
cdef int64_t victim_leave(pager_t *pg, uint32_t page, int stack) noexcept nogil
cdef int64_t record_leave(pager_t *pg, uint32_t page, uint32_t *state, int stack) noexcept nogil
