from frontswap.core.layout cimport pager_t
from frontswap.core.uapi cimport int64_t, uint64_t

cdef enum:
    MOST_SHIFT = 46           # 1 << 46 bytes and more are libc's to refuse

cdef pager_t *heap            # of the Memory that large requests come from; it stays until the process ends
cdef uint64_t heap_base       # its arena; what is not in it is libc's
cdef uint64_t heap_end
cdef int64_t heap_from        # requests of so many bytes and more; 0: none any more

cdef bint is_large(uint64_t n) noexcept nogil
cdef bint is_ours(const void *at) noexcept nogil
cdef void heap_begin(pager_t *pg) noexcept nogil
cdef void heap_threshold(int64_t n) noexcept nogil
