from frontswap.core.layout cimport pager_t
from frontswap.core.uapi cimport int64_t

cdef void budget_spend(pager_t *pg, int64_t bytes) noexcept nogil
cdef void budget_look(pager_t *pg) noexcept nogil
cdef void budget_set(pager_t *pg, int64_t bytes, int64_t period) noexcept nogil
cdef int64_t budget_left(pager_t *pg) noexcept nogil

cdef bint is_over(pager_t *pg) noexcept nogil
cdef bint is_spent(pager_t *pg) noexcept nogil
