from frontswap.core.layout cimport pager_t

cdef void gate_enter(pager_t *pg) noexcept nogil
cdef void gate_await(pager_t *pg) noexcept nogil
cdef void gate_leave(pager_t *pg) noexcept nogil
cdef void gate_close(pager_t *pg) noexcept nogil
cdef void gate_open(pager_t *pg) noexcept nogil
