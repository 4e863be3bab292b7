from frontswap.core.layout cimport pager_t
from frontswap.core.uapi cimport int64_t, uint32_t

cdef void leases_check(pager_t *pg) noexcept nogil
cdef void slot_give(pager_t *pg, int64_t slot) noexcept nogil
cdef uint32_t slots_in_use(pager_t *pg) noexcept nogil

cdef enum:
    FILE_SHIFT = 32           # slot numbers: file << 32 | place in it

cdef void slot_free(pager_t *pg, uint32_t number) noexcept nogil
cdef bint leased(pager_t *pg, uint32_t number) noexcept nogil
