from frontswap.core.layout cimport block_t
from frontswap.core.uapi cimport uint32_t, uint64_t

cdef enum:
    MREMAP_MAYMOVE = 1

cdef void *map_move(uint64_t address, uint64_t old, uint64_t new, int flags, int *error) noexcept nogil

cdef void copy_pages(block_t *block, uint64_t to, uint64_t address, uint64_t n) noexcept nogil
cdef bint any_fixed(uint32_t number, uint64_t low, uint64_t high) noexcept nogil
