from cpython.ref cimport PyObject

from frontswap.core.layout cimport backend_t, pager_t
from frontswap.core.native cimport Native
from frontswap.core.registration cimport thread_function
from frontswap.core.uapi cimport int64_t, lock_t, uint32_t, uint64_t


cdef class Hooks:
    cdef pager_t *pg
    cdef bint open
    # No Python object in here: the garbage collector would clear it before __dealloc__ stops the threads.
    cdef PyObject *keep
    cdef PyObject *policy               # whose address the pager has
    cdef int policy_set(self, object make) except -1
    cdef void policy_clear(self) noexcept
    cdef PyObject *natives[8]           # MAX_STACKS; what owns the memory of the stacks
    cdef int number_of(self, Native native) noexcept
    cdef int pool_mappings              # of these, those from here on are the pool's (Hooks.pool_open)
    cdef void *map(self, uint64_t length) except NULL
    cdef int map_pages(self) except -1
    cdef int map_log(self) except -1
    cdef int start(self, thread_function function) except -1
    cdef void stop(self) noexcept
    cdef void unmap(self, int first, uint64_t kept) noexcept
    cdef pager_t *pager(self) except NULL
    cdef int pool_open(self, int64_t size, int64_t segment) except -1
    cdef int pool_stop(self) except -1
    cdef void pool_close(self) noexcept
    cdef void release(self, int number) noexcept
    cdef void give_back(self, uint64_t kept) noexcept

cdef list times_of(lock_t *of)
