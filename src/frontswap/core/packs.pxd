from frontswap.core.layout cimport context_t, group_t, member_t, pager_t, record_t, walk_t
from frontswap.core.uapi cimport uint8_t, uint32_t, uint64_t

cdef void walk_begin(
    walk_t *walk, uint32_t number, uint8_t *data, uint32_t fill, uint32_t at) noexcept nogil
cdef bint walk_next(pager_t *pg, walk_t *walk) noexcept nogil
cdef bint walk_claim(pager_t *pg, walk_t *walk) noexcept nogil
cdef uint32_t walk_live(pager_t *pg, walk_t *walk) noexcept nogil
cdef record_t *pack_shrink(pager_t *pg, context_t *ctx, walk_t *walk) noexcept nogil
cdef bint is_group(group_t *group, uint32_t length) noexcept nogil
cdef int member_of(group_t *group, uint32_t page) noexcept nogil
cdef bint member_is(group_t *group, int i, uint64_t where, uint32_t size) noexcept nogil
cdef int pack_decode(pager_t *pg, context_t *ctx, const record_t *header, uint32_t check) noexcept nogil
cdef group_t *group_of(const record_t *header) noexcept nogil
cdef member_t *members_of(group_t *group) noexcept nogil
cdef const uint8_t *part_of(context_t *ctx, uint32_t member) noexcept nogil
cdef bint is_part(context_t *ctx, uint32_t member, uint32_t page) noexcept nogil
cdef int pack_open(pager_t *pg, context_t *ctx, uint32_t number, uint32_t at, const record_t *header,
                   uint32_t check) noexcept nogil
cdef int pack_load(
    pager_t *pg, context_t *ctx, uint32_t page, const record_t *header, uint64_t where) noexcept nogil
