from frontswap.core.layout cimport context_t, pager_t
from frontswap.core.uapi cimport int64_t, uint8_t, uint32_t, uint64_t

cdef uint64_t whole_bytes(pager_t *pg) noexcept nogil
cdef void decoder_begin(pager_t *pg, context_t *ctx) noexcept nogil
cdef int64_t state_bytes() noexcept nogil
cdef uint64_t buffers_bytes(pager_t *pg) noexcept nogil
cdef void contexts_make(pager_t *pg) noexcept nogil
cdef void contexts_for(pager_t *pg, uint32_t page) noexcept nogil
cdef void budget_apply(pager_t *pg) noexcept nogil
cdef void limit_apply(pager_t *pg, int64_t limit, uint32_t page) noexcept nogil
cdef void contexts_back(pager_t *pg) noexcept nogil
cdef void contexts_open(pager_t *pg) noexcept nogil
cdef void contexts_forget(pager_t *pg) noexcept nogil
cdef void pool_share(pager_t *pg) noexcept nogil

cdef void populate(uint8_t *at, uint64_t length) noexcept nogil
cdef int64_t read_on(pager_t *pg, int64_t most, int64_t part) noexcept nogil
cdef int fault_share(pager_t *pg, int64_t limit, uint32_t page) noexcept nogil
cdef int huge_share(pager_t *pg, int64_t limit) noexcept nogil
cdef int64_t reserve_bytes(pager_t *pg, int64_t limit, uint32_t page) noexcept nogil

cdef context_t *context_take(pager_t *pg) noexcept nogil
cdef void context_give(context_t *ctx) noexcept nogil
cdef context_t *work_enter(pager_t *pg) noexcept nogil
cdef void work_leave(pager_t *pg, context_t *ctx) noexcept nogil
