from frontswap.core.layout cimport pager_t
from frontswap.core.uapi cimport int64_t, uint32_t, uint64_t

ctypedef struct spot_t:       # the page that an address lies in
    uint64_t address
    uint64_t chunk
    uint32_t array            # its block
    uint32_t number           # and that of its page: the same, or that of the parts of its pages
    uint32_t whole            # the page that this one is a part of, 0: of none
    uint32_t serial
    uint32_t shift
    uint32_t page
    uint32_t index
    int64_t at                # bytes from the beginning of the array

cdef bint spot_find(pager_t *pg, uint64_t address, spot_t *spot) noexcept nogil
cdef bint spot_part(pager_t *pg, spot_t *spot) noexcept nogil
cdef bint spot_holds(pager_t *pg, const spot_t *spot) noexcept nogil
cdef bint part_holds(pager_t *pg, const spot_t *spot) noexcept nogil
cdef bint is_shut(pager_t *pg, const spot_t *spot) noexcept nogil
cdef bint pager_fixed(pager_t *pg, uint64_t address) noexcept nogil
