from frontswap.core.layout cimport block_t, pager_t
from frontswap.core.uapi cimport uint64_t

cdef enum:
    MREMAP_MOVE_FIXED = 3     # MREMAP_MAYMOVE | MREMAP_FIXED

cdef void *foreign_make(uint64_t n, int protection, int flags, int fd, long offset, int *error) noexcept nogil
cdef int foreign_begin(pager_t *pg, block_t *block, uint64_t low, uint64_t high, void *made) noexcept nogil
cdef int foreign_end(pager_t *pg, block_t *block, uint64_t low, uint64_t high) noexcept nogil
