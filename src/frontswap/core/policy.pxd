from frontswap.core.layout cimport pager_t
from frontswap.core.uapi cimport int64_t, uint32_t

cdef void policy_stored(pager_t *pg, uint32_t page) noexcept nogil
cdef void policy_loaded(pager_t *pg, uint32_t page) noexcept nogil
cdef void policy_dropped(pager_t *pg, uint32_t page, uint32_t state) noexcept nogil
cdef void policy_gone(pager_t *pg, uint32_t page) noexcept nogil
cdef bint policy_has(pager_t *pg, uint32_t page) noexcept nogil
cdef uint32_t policy_victim(pager_t *pg, uint32_t coming) noexcept nogil
cdef void policy_back(pager_t *pg, uint32_t page) noexcept nogil
cdef int64_t policy_mean(pager_t *pg) noexcept nogil
cdef int64_t policy_room(int64_t bytes) noexcept nogil

cdef int64_t held(pager_t *pg) noexcept nogil
cdef void measure(pager_t *pg) noexcept nogil
