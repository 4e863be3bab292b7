from frontswap.core.layout cimport pager_t
from frontswap.core.uapi cimport int64_t

cdef int64_t loose_counted(pager_t *pg) noexcept nogil
cdef int crossing(pager_t *pg, int *looked) noexcept nogil
cdef void loose_resume(pager_t *pg) noexcept nogil
cdef void loose_stop(pager_t *pg) noexcept nogil
cdef void loose_forked(pager_t *pg) noexcept nogil

cdef int64_t kept(pager_t *pg) noexcept nogil
cdef int64_t loose_left(pager_t *pg) noexcept nogil
cdef bint loose_look(pager_t *pg) noexcept nogil
cdef void *loose_thread(void *argument) noexcept nogil
