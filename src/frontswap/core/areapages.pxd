from frontswap.core.layout cimport context_t, pager_t
from frontswap.core.uapi cimport addi, backoff, load32, loadi, int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef enum:                    # why a page cannot be read, beside LOAD_* (record.pxd); positive: errno of its slot
    LOAD_POISONED = -6        # it was lost before
    LOAD_GONE = -7            # an exclusive load took it
    IN_BACKEND_STILL = 4096   # more than any errno

cdef inline void area_leave(pager_t *pg, uint32_t number) noexcept nogil:
    """End of area_enter()."""
    addi(&pg.areas[number].users, -1)

cdef inline bint area_try_enter(pager_t *pg, uint32_t number) noexcept nogil:
    """Begin an operation on an area; False if it has gone, or is closed. Counted first, looked at then: swapoff does the
    reverse."""
    addi(&pg.areas[number].users, 1)
    if load32(&pg.blocks[number].live) == 1 and loadi(&pg.areas[number].closed) == 0:
        return True
    area_leave(pg, number)
    return False

cdef inline bint area_enter(pager_t *pg, uint32_t number) noexcept nogil:
    """Begin an operation on an area; False if it has gone.

    Who is in must not enter once more: it would wait for the end of a resize, which waits for it.
    """
    cdef int turn = 0
    while not area_try_enter(pg, number):
        if load32(&pg.blocks[number].live) != 1:
            return False
        backoff(turn)
        turn += 1
    return True

cdef int store_owned(pager_t *pg, context_t *ctx, uint32_t number, uint32_t page, uint32_t state,
                     const uint8_t *data) noexcept nogil
cdef int area_replace(pager_t *pg, context_t *ctx, uint32_t number, uint32_t offset, const uint8_t *data) noexcept nogil
cdef int area_store(pager_t *pg, uint32_t number, uint32_t offset, const uint8_t *data) noexcept nogil
cdef int area_load(pager_t *pg, context_t *ctx, uint32_t number, uint32_t offset, int more, uint8_t *into,
                   int *error) noexcept nogil
cdef int area_promote(pager_t *pg, context_t *ctx, uint32_t number, uint32_t offset) noexcept nogil
cdef int area_invalidate(pager_t *pg, uint32_t number, uint32_t offset) noexcept nogil
cdef int64_t area_used(pager_t *pg, uint32_t number, uint32_t first) noexcept nogil
cdef void area_empty(pager_t *pg, uint32_t number) noexcept nogil
cdef void area_store_many(pager_t *pg, uint32_t number, const uint32_t *offsets, const int64_t *order, int64_t n,
                          const uint8_t *data, int32_t *results) noexcept nogil
cdef int load_owned(pager_t *pg, context_t *ctx, uint32_t number, uint32_t page, uint32_t *state, int more,
                    uint8_t *into, int *error) noexcept nogil
cdef int area_update(pager_t *pg, context_t *ctx, uint32_t number, uint32_t offset, uint32_t within, uint32_t length,
                     const uint8_t *data) noexcept nogil
cdef int area_discard(pager_t *pg, context_t *ctx, uint32_t number, uint32_t offset) noexcept nogil
