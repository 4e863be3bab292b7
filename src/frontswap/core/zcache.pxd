from frontswap.core.layout cimport backend_t, block_t, context_t, pager_t
from frontswap.core.uapi cimport int64_t, uint8_t, uint32_t

cdef int zcache_store(backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data,
                      uint32_t *kind) noexcept nogil
cdef int zcache_load(
    backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, int more) noexcept nogil
cdef void zcache_forget(backend_t *b, pager_t *pg, uint32_t page, uint32_t state) noexcept nogil
cdef void zcache_pressure(backend_t *b, pager_t *pg, int level) noexcept nogil
cdef int64_t zcache_held(backend_t *b, pager_t *pg) noexcept nogil
cdef int64_t pool_limit(pager_t *pg, int64_t most) noexcept nogil
cdef int64_t pool_mark(pager_t *pg) noexcept nogil
cdef bint pool_has_slots(pager_t *pg) noexcept nogil
cdef int64_t pressure_share(int64_t bytes, int level) noexcept nogil
cdef void await_cleaner(pager_t *pg, int64_t need) noexcept nogil
cdef bint may_stage(pager_t *pg, uint32_t page) noexcept nogil
cdef bint rushes(const block_t *block) noexcept nogil
cdef bint is_granted(pager_t *pg, uint32_t page, int64_t need) noexcept nogil
cdef int64_t packs_dead(pager_t *pg) noexcept nogil
cdef bint pool_is_sparse(pager_t *pg) noexcept nogil
