from frontswap.core.layout cimport backend_t, context_t, pager_t
from frontswap.core.uapi cimport uint8_t, uint32_t, uint64_t

cdef class Native:
    cdef backend_t b
    cdef readonly Native lower
    cdef readonly str name
    cdef bint is_zcache
    cdef bint is_python       # it takes the GIL: not behind the memory door
    cdef bint wants_table
    cdef uint64_t table_bytes
    cdef pager_t *pg          # the hooks it is attached to
    cdef int attach(self, pager_t *pg, uint32_t number) except -1
    cdef void detach(self) noexcept

cdef int null_store(backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data,
                    uint32_t *kind) noexcept nogil
cdef int null_load(
    backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, int more) noexcept nogil
cdef void null_forget(backend_t *b, pager_t *pg, uint32_t page, uint32_t state) noexcept nogil
