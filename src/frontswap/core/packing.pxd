from frontswap.core.layout cimport context_t, dense_t, member_t, pager_t, record_t
from frontswap.core.uapi cimport int64_t, uint8_t, uint32_t, uint64_t

cdef uint32_t widest(pager_t *pg, uint32_t page) noexcept nogil
cdef int64_t packs_bytes(pager_t *pg) noexcept nogil
cdef bint is_sound(dense_t *one, const record_t *header) noexcept nogil
cdef void packs_make(pager_t *pg, void *encoder) noexcept nogil
cdef void batch_add(pager_t *pg, uint32_t page, uint64_t where, uint32_t serial, uint32_t at) noexcept nogil
cdef uint32_t quick_pack(pager_t *pg, uint32_t block, const uint8_t *data, uint32_t page, uint8_t *made) noexcept nogil
cdef uint32_t settle_record(
    pager_t *pg, dense_t *one, record_t *header, uint8_t *made) noexcept nogil
cdef uint32_t record_pack(pager_t *pg, dense_t *one, record_t *header, void *encoder, uint8_t *made) noexcept nogil
cdef bint page_plain(pager_t *pg, dense_t *one, uint8_t *dst) noexcept nogil
cdef bint part_plain(
    pager_t *pg, dense_t *one, const record_t *header, uint32_t size, uint8_t *dst) noexcept nogil
cdef uint8_t quick(uint8_t codec) noexcept nogil
cdef uint32_t pack_gather(
    pager_t *pg, uint32_t first, uint64_t *tried, uint32_t *members, uint8_t *parts) noexcept nogil
cdef uint32_t pack_make(
    pager_t *pg, void *encoder, const uint32_t *members, const uint8_t *parts, uint32_t n,
    record_t *header) noexcept nogil
cdef uint32_t pack_frame(pager_t *pg, void *encoder, uint8_t codec, uint32_t size, uint8_t *dst, uint32_t most,
                         uint8_t *made) noexcept nogil
cdef void pack_share(
    pager_t *pg, const uint32_t *members, const uint8_t *parts, uint32_t n, uint32_t before,
    record_t *header) noexcept nogil

cdef bint is_tight(pager_t *pg, uint32_t length) noexcept nogil
cdef bint batch_claim(pager_t *pg, dense_t *one, uint32_t *state) noexcept nogil
cdef void batch_replaced(pager_t *pg, dense_t *one, uint32_t shift, uint64_t place) noexcept nogil
cdef uint64_t pack_point(
    pager_t *pg, uint32_t page, uint64_t place, const member_t *member, const record_t *header) noexcept nogil
cdef bint pack_install(pager_t *pg, uint32_t group) noexcept nogil
cdef void page_quicken(pager_t *pg, context_t *ctx, uint32_t page, uint32_t state) noexcept nogil
cdef uint64_t page_alone(pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data) noexcept nogil
