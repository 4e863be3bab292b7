from frontswap.core.layout cimport pager_t
from frontswap.core.uapi cimport uint64_t

cdef void region_prepare(pager_t *pg) noexcept nogil
cdef int region_open(pager_t *pg) noexcept nogil
cdef int region_supported(pager_t *pg) noexcept nogil
cdef int region_register(pager_t *pg) noexcept nogil
cdef int region_join(pager_t *pg, uint64_t address, uint64_t size) noexcept nogil
cdef int register_arena(pager_t *pg, int fd) noexcept nogil
cdef void region_unregister(pager_t *pg) noexcept nogil

cdef int region_fill(
    pager_t *pg, uint64_t to, const void *data, uint64_t size, bint protected, bint again) noexcept nogil
cdef int region_touch(pager_t *pg, uint64_t to, uint64_t size, bint protected, bint again) noexcept nogil
cdef int region_complete(pager_t *pg, uint64_t to, uint64_t size) noexcept nogil
cdef int region_keep(pager_t *pg, uint64_t address, uint64_t size) noexcept nogil
cdef int region_allow(pager_t *pg, uint64_t address, uint64_t size, bint patient) noexcept nogil
cdef int region_close(pager_t *pg, uint64_t address, uint64_t size, bint patient) noexcept nogil
