from frontswap.core.layout cimport block_t, context_t, pager_t
from frontswap.core.spot cimport spot_t
from frontswap.core.uapi cimport uint32_t

cdef bint touch_huge(pager_t *pg, const spot_t *spot, context_t **ctx) noexcept nogil
cdef bint suits(pager_t *pg, block_t *block, uint32_t end) noexcept nogil

cdef bint walks_along(pager_t *pg, block_t *block, uint32_t first, uint32_t index, uint32_t n) noexcept nogil
cdef bint is_touched(pager_t *pg, uint32_t page) noexcept nogil
cdef bint own(pager_t *pg, const spot_t *spot, uint32_t first, uint32_t index, uint32_t n) noexcept nogil
