from frontswap.core.layout cimport backend_t, context_t, pager_t
from frontswap.core.native cimport Native
from frontswap.core.uapi cimport uint8_t, uint32_t, uint64_t

cdef class PythonBackend(Native):
    cdef readonly object backend

cdef class PageBytes:
    cdef void *at
    cdef Py_ssize_t size
    cdef bint is_readonly
    cdef int looking

cdef int python_store(backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data,
                      uint32_t *kind) noexcept nogil
cdef int python_load(
    backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, int more) noexcept nogil
cdef void python_forget(backend_t *b, pager_t *pg, uint32_t page, uint32_t state) noexcept nogil
cdef int call_store(backend_t *b, uint32_t type, uint32_t offset, const uint8_t *data, uint32_t size) noexcept
cdef int call_load(backend_t *b, uint32_t type, uint32_t offset, uint8_t *into, uint32_t size) noexcept
cdef void call_forget(backend_t *b, uint32_t type, uint32_t offset) noexcept
cdef object call(backend_t *b, int what, uint32_t type, uint32_t offset, void *at, uint32_t size)
cdef object failed(object backend, str what, uint32_t type, uint32_t offset, object error)
