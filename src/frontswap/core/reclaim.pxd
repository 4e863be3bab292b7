from frontswap.core.layout cimport context_t, pager_t
from frontswap.core.uapi cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:                    # how long a charge tries
    BRIEF = 0
    PATIENT = 1
    WITHIN = 2
    PATIENCE = 600            # rounds without a page freed, then it gives up: some 20 ms, in which disk writes end

cdef void queue_push(pager_t *pg, uint32_t page) noexcept nogil
cdef void queue_add(pager_t *pg, uint32_t page) noexcept nogil
cdef void queue_run(pager_t *pg, uint32_t first, uint32_t n) noexcept nogil
cdef void wait_for_memory(pager_t *pg, context_t *ctx, int64_t size, int error, int turn) noexcept nogil
cdef int64_t reclaim_batch(pager_t *pg, context_t *ctx, int64_t want) noexcept nogil
cdef int charge(pager_t *pg, context_t **ctx, int64_t bytes, int patience) noexcept nogil
cdef void *reclaim_thread(void *argument) noexcept nogil

cdef int64_t evict_parts(pager_t *pg, context_t *ctx, uint32_t page, uint32_t state) noexcept nogil
cdef bint has_left(uint32_t state) noexcept nogil
cdef uint32_t queue_pop(pager_t *pg) noexcept nogil
cdef int64_t reclaim_some(pager_t *pg, context_t *ctx, int64_t want, int *passed) noexcept nogil
