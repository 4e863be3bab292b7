from frontswap.core.layout cimport block_t, pager_t
from frontswap.core.uapi cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:                    # why an allocation was refused; positive values are errno of the swap file
    NO_ADDRESSES = -1
    NO_ALLOCATION = -2        # more than `allocate`, without a swap file
    CROSSING = -3             # the arena must be registered first: arena_allocate() does it
    NO_REGISTRATION = 1 << 16 # and the errno that it ended in

cdef enum:                    # how an array is asked for
    SPARE = 1                 # as a spare, if there is one: what malloc() and calloc() are asked for
    ZEROS = 16                # a spare is cleared for it; all else reads as zeros
    GROWING = 2               # arena_resize() will ask for more
    MAPPED = 4                # block_t.mapped
    LOOSE = 8                 # block_t.loose
    RESERVED = 32             # block_t.reserved
    FOLLOWS = 64              # block_t.follows: the page is chosen by its size

cdef uint64_t arena_allocate(
    pager_t *pg, uint64_t bytes, uint32_t page, int typesize, int kind, int how, int *error
) noexcept nogil
cdef bint arena_resize(pager_t *pg, uint64_t address, uint64_t bytes) noexcept nogil
cdef void arena_trim(pager_t *pg) noexcept nogil
cdef bint arena_free(pager_t *pg, uint64_t address) noexcept nogil
cdef uint32_t arena_find(pager_t *pg, uint64_t address) noexcept nogil
cdef void *map_memory(uint64_t bytes) noexcept nogil
cdef void array_advise(pager_t *pg, uint32_t number, uint8_t advice) noexcept nogil

cdef int64_t *counter(pager_t *pg, int how) noexcept nogil
cdef int backing(pager_t *pg, int64_t allocated, int64_t budget) noexcept nogil
cdef bint may_hold(pager_t *pg, int64_t bytes, int how, int *error) noexcept nogil
cdef uint32_t place(pager_t *pg, uint64_t bytes, uint32_t page, int how, int *error) noexcept nogil
cdef uint32_t page_by_size(pager_t *pg, uint64_t size) noexcept nogil
cdef uint32_t block_take(pager_t *pg) noexcept nogil
cdef void block_give(pager_t *pg, uint32_t number) noexcept nogil
cdef void parts_place(pager_t *pg, uint32_t number) noexcept nogil
cdef void parts_end(pager_t *pg, block_t *block) noexcept nogil
cdef uint64_t array_begin(
    pager_t *pg, uint32_t number, uint64_t bytes, int typesize, int kind, int how) noexcept nogil
cdef void drop_words(uint32_t *at, uint64_t n) noexcept nogil
cdef void marks_clear(pager_t *pg, block_t *block) noexcept nogil
cdef void array_end(pager_t *pg, uint32_t number, int64_t *counted) noexcept nogil
cdef int spare_keep(pager_t *pg, uint32_t number, uint32_t *ends) noexcept nogil
cdef void spare_remove(pager_t *pg, int i) noexcept nogil
cdef uint64_t spare_begin(
    pager_t *pg, uint64_t bytes, uint32_t page, int typesize, int kind, int how) noexcept nogil
cdef uint32_t spare_take(pager_t *pg, uint64_t bytes, uint32_t page, int how) noexcept nogil
cdef void spares_end(pager_t *pg) noexcept nogil
