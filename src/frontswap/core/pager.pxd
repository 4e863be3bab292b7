from frontswap.core.layout cimport context_t, pager_t
from frontswap.core.spot cimport spot_t
from frontswap.core.uapi cimport int64_t, uint32_t, uint64_t

cdef enum:                    # what a fault ends in
    RESOLVED = 0              # the page was filled or un-protected: the access goes on
    RETRY = 1                 # somebody else has done it
    SHUT = 2                  # it is reserved, and not committed: the kernel lets nobody in
    LOST = -1                 # the page cannot be brought back
    STRAY = -2                # the address belongs to no array
    NO_MEMORY = -3            # the limit is reached, and nothing can leave
    NO_DISK = -4              # a page of a mapping without a reservation is touched, and the disk cannot back it

cdef int pager_fault(pager_t *pg, uint64_t address, bint write) noexcept nogil
cdef void *readahead_thread(void *argument) noexcept nogil

cdef bint backed(pager_t *pg, int64_t bytes) noexcept nogil
cdef int fault(pager_t *pg, spot_t *spot, bint write, context_t **ctx) noexcept nogil
cdef int bring_in(pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, bint write, int more,
                  bint ahead) noexcept nogil
cdef void trace_page(pager_t *pg, const spot_t *spot) noexcept nogil
cdef void fill_holes(pager_t *pg, context_t *ctx, uint32_t page) noexcept nogil
cdef int page_lost(pager_t *pg, uint32_t page, uint32_t state, int cause) noexcept nogil
cdef void prefetch(pager_t *pg, context_t *ctx, uint32_t page, int more) noexcept nogil
cdef void lost_message(pager_t *pg, uint32_t page, bint on_disk, int cause) noexcept nogil
cdef bint out_on_disk(pager_t *pg, uint32_t page) noexcept nogil
