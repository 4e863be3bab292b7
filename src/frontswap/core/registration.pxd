from frontswap.core.layout cimport pager_t

ctypedef void *(*thread_function)(void *) noexcept nogil

cdef int region_register(pager_t *pg) noexcept nogil
cdef int thread_start(pager_t *pg, thread_function function) noexcept nogil
cdef int threads_start(pager_t *pg) noexcept nogil
