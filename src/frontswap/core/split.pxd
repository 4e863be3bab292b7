from frontswap.core.layout cimport block_t, context_t, pager_t
from frontswap.core.uapi cimport int64_t, uint32_t

cdef bint wants_parts(pager_t *pg, const block_t *block) noexcept nogil
cdef void split_untouched(pager_t *pg, uint32_t number, uint32_t page) noexcept nogil
cdef int64_t split_evict(pager_t *pg, context_t *ctx, uint32_t page, uint32_t state) noexcept nogil
cdef uint32_t collapse(pager_t *pg, const context_t *ctx, uint32_t page, uint32_t state) noexcept nogil

cdef bint may_repack(pager_t *pg, const context_t *ctx) noexcept nogil
cdef bint disk_has_room(pager_t *pg) noexcept nogil
cdef void disown(pager_t *pg, uint32_t first, const uint32_t *words, uint32_t count, uint32_t owned) noexcept nogil
