from frontswap.core.layout cimport block_t, pager_t
from frontswap.core.uapi cimport uint32_t, uint64_t

cdef enum:
    MAP_LEAST = 1 << 20       # and more: CPython's arenas of small objects have just so many, and are its own affair

cdef bint is_plain(int protection, int flags) noexcept nogil
cdef bint map_wanted(uint64_t n, int protection, int flags) noexcept nogil
cdef void *map_take(uint64_t n, int flags, bint *elsewhere) noexcept nogil
cdef int map_drop(uint64_t address, uint64_t n) noexcept nogil
cdef int map_anew(
    uint64_t address, uint64_t n, int protection, int flags, int fd, long offset) noexcept nogil
cdef int map_protect(uint64_t address, uint64_t n, int protection) noexcept nogil
cdef bint is_mapped(uint64_t address, uint64_t n) noexcept nogil
cdef int dontneed(pager_t *pg, uint64_t address, uint64_t n, bint zeros) noexcept nogil

cdef uint64_t whole(uint64_t n) noexcept nogil
cdef uint32_t next_map(uint64_t *at, uint64_t end, uint64_t *low, uint64_t *high) noexcept nogil
cdef uint32_t piece_bits(block_t *block, uint64_t page, uint64_t low, uint64_t high, uint64_t *first) noexcept nogil
cdef bint drop_part(uint32_t number, uint64_t low, uint64_t high) noexcept nogil
cdef int reserved_drop(uint64_t low, uint64_t high) noexcept nogil
cdef int reserved_empty(uint64_t low, uint64_t high, bint zeros) noexcept nogil
cdef int reserved_map(
    uint64_t low, uint64_t high, int protection, int flags, int fd, long offset) noexcept nogil
cdef void after_commit() noexcept nogil
cdef int protect_parts(uint64_t address, uint64_t end, int protection) noexcept nogil
cdef bint any_gone(uint64_t address, uint64_t n) noexcept nogil
cdef bint is_zeros(pager_t *pg, block_t *block, uint64_t page) noexcept nogil
cdef bint has_zeros(pager_t *pg, uint32_t page) noexcept nogil
cdef bint is_fixed(block_t *block, uint64_t page, uint64_t low, uint64_t high) noexcept nogil
cdef void set_fixed(block_t *block, uint64_t page, uint64_t low, uint64_t high, bint on) noexcept nogil
cdef int fix(uint32_t number, uint64_t low, uint64_t high, int protection) noexcept nogil
cdef int allow(uint32_t number, uint64_t low, uint64_t high) noexcept nogil
cdef void unfix(uint32_t number, uint64_t low, uint64_t high) noexcept nogil
cdef void zero_part(block_t *block, uint64_t page, uint64_t low, uint64_t high) noexcept nogil
cdef int drop_bytes(pager_t *pg, block_t *block, uint64_t at, uint64_t end, bint zeros) noexcept nogil
cdef void zap_pages(pager_t *pg, block_t *block, uint64_t first, uint64_t end, bint zeros) noexcept nogil
