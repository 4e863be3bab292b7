from frontswap.core.layout cimport pager_t
from frontswap.core.uapi cimport int64_t

ctypedef int (*pending_function)(void *unused) except -1

cdef extern from "Python.h":
    int Py_AddPendingCall(pending_function call, void *argument) noexcept nogil

cdef object watcher           # of the one plane that is watched
cdef int watch_process

cdef void brake_due(pager_t *pg) noexcept nogil
cdef void watch_look(pager_t *pg) noexcept nogil
cdef int watch_call(void *unused) except -1
cdef watch_begin(pager_t *pg, int64_t allocated, object call)
