from frontswap.core.hooks cimport Hooks
from frontswap.core.uapi cimport int64_t, uint32_t, uint64_t

cdef class Plane(Hooks):
    cdef int map_tables(self, int64_t limit_most) except -1
    cdef tear_down(self)
    cdef int range_of(self, uint64_t address, uint64_t length, bint whole, uint32_t *first, uint32_t *count) except -1
