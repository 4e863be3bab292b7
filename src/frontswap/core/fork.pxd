from frontswap.core.layout cimport block_t, pager_t

cdef void fork_prepare() noexcept nogil
cdef void fork_parent() noexcept nogil
cdef void fork_child() noexcept nogil

cdef void inherit(pager_t *pg, int advice) noexcept nogil
cdef int ready(pager_t *pg) noexcept nogil
cdef void prepare_one(pager_t *pg) noexcept nogil
cdef void parent_one(pager_t *pg) noexcept nogil
cdef void child_one(pager_t *pg) noexcept nogil
cdef void child_files(pager_t *pg) noexcept nogil
cdef void protect_clean(pager_t *pg, block_t *block) noexcept nogil
