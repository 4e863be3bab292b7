from frontswap.core.layout cimport pager_t
from frontswap.core.uapi cimport uint32_t

cdef void age_append(pager_t *pg, uint32_t number) noexcept nogil
cdef void age_insert(pager_t *pg, uint32_t number) noexcept nogil
cdef void age_prepend(pager_t *pg, uint32_t number) noexcept nogil
cdef void age_remove(pager_t *pg, uint32_t number) noexcept nogil

cdef void link(pager_t *pg, uint32_t number, uint32_t older) noexcept nogil
cdef void full_remove(pager_t *pg, uint32_t number) noexcept nogil
