from cpython.ref cimport PyObject

from frontswap.core.layout cimport block_t, pager_t
from frontswap.core.uapi cimport int32_t, int64_t, uint32_t, uint64_t

cdef enum:
    MAPPINGS = 24

ctypedef void *(*thread_function)(void *) noexcept nogil

cdef class Plane:
    cdef pager_t *pg
    cdef bint open
    # No Python object in here: the garbage collector would clear it before __dealloc__ stops the threads.
    cdef PyObject *keep
    cdef uint64_t mapped[MAPPINGS]
    cdef uint64_t lengths[MAPPINGS]
    cdef int mappings
    cdef void *map(self, uint64_t length) except NULL
    cdef int map_tables(self) except -1
    cdef int start(self, thread_function function) except -1
    cdef void stop(self, pager_t *pg) noexcept
    cdef tear_down(self)
    cdef int range_of(self, uint64_t address, uint64_t length, bint whole, uint32_t *first, uint32_t *count) except -1
    cdef pager_t *pager(self) except NULL
