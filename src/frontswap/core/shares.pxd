from frontswap.core.layout cimport pager_t
from frontswap.core.uapi cimport int64_t, uint32_t

cdef inline bint is_shared(pager_t *pg) noexcept nogil:
    """True if some area has a quota or a weight of its own."""
    return pg.quotas != 0 or pg.weights != 0

cdef bint pool_charge(pager_t *pg, uint32_t page, int64_t bytes) noexcept nogil
cdef void pool_uncharge(pager_t *pg, uint32_t page, int64_t bytes) noexcept nogil
cdef int64_t pool_held(pager_t *pg, uint32_t number) noexcept nogil
cdef int64_t pool_live(pager_t *pg) noexcept nogil
cdef bint share_below(pager_t *pg, uint32_t number) noexcept nogil
cdef uint32_t share_most(pager_t *pg) noexcept nogil
