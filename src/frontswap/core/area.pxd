from cpython.ref cimport PyObject

from frontswap.core.hooks cimport Hooks
from frontswap.core.uapi cimport int32_t, int64_t, uint32_t, uint64_t

cdef class Areas(Hooks):
    cdef PyObject *kept[65]             # MAX_AREAS + 1: who owns the descriptor of each area's slots
    cdef tear_down(self)
    cdef share(self, uint32_t number, int64_t quota, int weight)
    cdef uint32_t enter(self, object type, object serial, object offset) except 0
    cdef uint32_t enter_many(self, object type, object serial, const uint32_t[::1] offsets) except 0
    cdef int view(self, uint32_t number, str parameter, object buffer, int64_t pages, bint writable, Py_buffer *view) except -1
    cdef store_failed(self, uint32_t number, object type, object offset, int error)
    cdef load_failed(self, object type, object offset, int error)
