from frontswap.core.layout cimport pager_t
from frontswap.core.uapi cimport int64_t, uint32_t, uint64_t

cdef packed struct reference_t:   # oracleGeneral of libCacheSim
    uint32_t time             # seconds since the recording began
    uint64_t page             # its array's number, and its own in there
    uint32_t size             # bytes
    int64_t next              # the next record of this page; -1: not known

ctypedef reference_t *reference_p

cdef void trace_note(pager_t *pg, uint32_t serial, uint32_t index, uint32_t size) noexcept nogil
cdef void trace_begin(pager_t *pg, reference_t *at, int64_t most) noexcept nogil
cdef int64_t trace_end(pager_t *pg) noexcept nogil
