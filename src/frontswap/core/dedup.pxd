from frontswap.core.layout cimport dense_t, pager_t
from frontswap.core.uapi cimport int64_t, uint8_t, uint32_t

cdef enum:
    LEAST_ALIKE = 64          # bytes of a record: of less a member costs nearly as much

cdef int64_t alike_bytes(pager_t *pg) noexcept nogil
cdef void alike_layout(pager_t *pg, uint8_t *at) noexcept nogil
cdef void alike_look(pager_t *pg) noexcept nogil
cdef bint alike_take(pager_t *pg, uint32_t most) noexcept nogil

cdef enum:                    # chain_copy()
    COPIED = 1
    PASSED = 0                # it has no record that could be used; who follows it may
    ENDS = -1                 # it has been found to be like others already
    FULL = -2                 # there is no room in the batch

cdef uint32_t sights_count(pager_t *pg) noexcept nogil
cdef int64_t state_room() noexcept nogil
cdef void sight(pager_t *pg, dense_t *one) noexcept nogil
cdef int chain_copy(pager_t *pg, uint32_t page, uint32_t head, uint32_t *used, uint32_t most) noexcept nogil
cdef int owned_copy(pager_t *pg, uint32_t page, uint32_t head, uint32_t *used, uint32_t most) noexcept nogil
