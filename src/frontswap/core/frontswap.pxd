from frontswap.core.layout cimport backend_t, context_t, pager_t
from frontswap.core.uapi cimport int64_t, uint8_t, uint32_t, uint64_t

# What `frontswap_store` ends in; a negative number is an errno: the slot could not be written.
cdef enum:
    NOWHERE = 0               # nobody took the page, and it has no slot
    IN_BACKEND = 1
    IN_SLOT = 2

cdef int frontswap_store(pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data, uint32_t old,
                         uint32_t *kind) noexcept nogil
cdef int frontswap_load(
    pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, int more) noexcept nogil
cdef int frontswap_invalidate_page(pager_t *pg, uint32_t page, uint32_t state) noexcept nogil
cdef void frontswap_overwritten(pager_t *pg, uint32_t page, uint32_t state) noexcept nogil
cdef bint frontswap_promote(pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data, uint32_t *kind) noexcept nogil
cdef int frontswap_evacuate(
    pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, uint32_t *kind) noexcept nogil

cdef void page_poison(pager_t *pg, uint32_t page) noexcept nogil

# What filters call below them: the function of the same name in the contract, counted.
cdef int offer(backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data,
               uint32_t *kind) noexcept nogil
cdef int fetch(backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, int more) noexcept nogil
cdef void forget(backend_t *b, pager_t *pg, uint32_t page, uint32_t state) noexcept nogil
cdef void refaulted(pager_t *pg, uint32_t page, uint32_t state) noexcept nogil

cdef int zcache_enter(pager_t *pg) noexcept nogil
cdef void zcache_leave(pager_t *pg, int number) noexcept nogil
cdef void freed(pager_t *pg, uint32_t page) noexcept nogil
cdef int offer_all(pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data, uint32_t *kind) noexcept nogil
cdef int slot_store(pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data, uint32_t *kind) noexcept nogil
cdef int slot_load(pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, int more) noexcept nogil
cdef void count_area(pager_t *pg, uint32_t page, int which) noexcept nogil
