from frontswap.core.hooks cimport Hooks
from frontswap.core.layout cimport brake_t, pager_t
from frontswap.core.uapi cimport int64_t

cdef class Brake:
    cdef Hooks plane
    cdef int64_t heard        # notes that wait() has told of
    cdef pager_t *pager(self) except NULL

cdef bint name_into(char *to, bytes name, int most) except -1
