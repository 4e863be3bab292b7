from frontswap.core.layout cimport block_t, pager_t
from frontswap.core.uapi cimport uint32_t, uint64_t

cdef int pager_pin(pager_t *pg, block_t *block, uint32_t page) noexcept nogil
cdef void pager_unpin(pager_t *pg, uint32_t page) noexcept nogil

cdef int pin_once(pager_t *pg, uint32_t page) noexcept nogil
cdef int pin_page(pager_t *pg, uint64_t address, uint32_t page, uint32_t whole) noexcept nogil
cdef int pin_parts(pager_t *pg, uint64_t address, uint32_t page) noexcept nogil
cdef void unpin_once(pager_t *pg, uint32_t page) noexcept nogil
