from frontswap.core.layout cimport block_t, pager_t
from frontswap.core.presence cimport presence_t
from frontswap.core.uapi cimport int64_t, uint32_t, uint64_t

ctypedef void *(*thread_function)(void *) noexcept nogil

cdef int thread_start(pager_t *pg, thread_function function) noexcept nogil
cdef int threads_start(pager_t *pg) noexcept nogil
cdef int threads_resume(pager_t *pg) noexcept nogil
cdef void threads_stop(pager_t *pg) noexcept nogil
cdef void block_huge(pager_t *pg, block_t *block, bint on) noexcept nogil
cdef int arena_register(pager_t *pg) noexcept nogil
cdef int64_t arena_present(pager_t *pg) noexcept nogil

cdef int register_closed(pager_t *pg) noexcept nogil
cdef uint64_t last_chunk(pager_t *pg) noexcept nogil
cdef void arena_look(pager_t *pg, int64_t *touched) noexcept nogil
cdef void block_look(pager_t *pg, presence_t *s, uint32_t number, int64_t *touched) noexcept nogil
cdef void part_look(
    pager_t *pg, presence_t *s, uint32_t number, uint64_t low, uint64_t high, int64_t *touched) noexcept nogil
cdef int64_t block_present(pager_t *pg, presence_t *s, block_t *block) noexcept nogil
cdef void block_allow(pager_t *pg, block_t *block) noexcept nogil
cdef void page_found(pager_t *pg, uint32_t number, uint64_t index, bint whole, int64_t *touched) noexcept nogil
