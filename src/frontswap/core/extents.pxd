from frontswap.core.layout cimport extents_t
from frontswap.core.uapi cimport uint32_t, uint64_t

cdef enum:
    NOWHERE = 0xFFFFFFFFFFFFFFFF

cdef uint64_t extent_take(extents_t *e, uint64_t count, uint64_t align) noexcept nogil
cdef bint extent_give(extents_t *e, uint64_t start, uint64_t count) noexcept nogil

cdef void extent_insert(extents_t *e, uint32_t at, uint64_t start, uint64_t count) noexcept nogil
cdef void extent_remove(extents_t *e, uint32_t at) noexcept nogil
