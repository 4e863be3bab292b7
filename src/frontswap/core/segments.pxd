from frontswap.core.layout cimport context_t, pager_t, record_t, segment_t
from frontswap.core.uapi cimport int64_t, uint8_t, uint32_t, uint64_t

cdef uint64_t record_append(
    pager_t *pg, int stream, const record_t *header, const void *data) noexcept nogil
cdef int record_get(
    pager_t *pg, context_t *ctx, uint32_t page, int more, const record_t **record) noexcept nogil
cdef void record_put(pager_t *pg, uint64_t where) noexcept nogil
cdef void record_drop(pager_t *pg, uint64_t where, uint32_t page_bytes) noexcept nogil
cdef bint record_on_disk(pager_t *pg, uint64_t where) noexcept nogil
cdef uint8_t *segment_hold(pager_t *pg, uint32_t number, uint32_t serial) noexcept nogil
cdef void segment_let_go(pager_t *pg, uint32_t number) noexcept nogil
cdef void move_begin(pager_t *pg, uint32_t number) noexcept nogil
cdef bint move_end(pager_t *pg, uint32_t number, uint32_t state) noexcept nogil
cdef void segment_renew(pager_t *pg, uint32_t number) noexcept nogil
cdef void segment_close(pager_t *pg, int stream) noexcept nogil
cdef int write_coldest(pager_t *pg) noexcept nogil
cdef int write_slot_stream(pager_t *pg) noexcept nogil

cdef void free_empty(pager_t *pg, uint32_t number, uint32_t held) noexcept nogil
cdef void slots_back(pager_t *pg) noexcept nogil

cdef void slot_ahead(pager_t *pg) noexcept nogil
cdef uint32_t slots_kept(pager_t *pg, int less) noexcept nogil
cdef uint32_t segment_release(pager_t *pg, uint32_t number) noexcept nogil
cdef void ram_release(pager_t *pg, uint32_t ram_slot, uint32_t stream, uint32_t fill) noexcept nogil
cdef int owner_of(int stream) noexcept nogil
cdef uint32_t segment_open(pager_t *pg, int stream) noexcept nogil
cdef void tail_release(pager_t *pg, segment_t *s) noexcept nogil
cdef uint32_t segment_seal(pager_t *pg, uint32_t number) noexcept nogil
cdef void ram_take(pager_t *pg, uint32_t number) noexcept nogil
cdef int segment_write(pager_t *pg, uint32_t number, bint cleaning) noexcept nogil
cdef void read_window(
    pager_t *pg, context_t *ctx, uint32_t page, int more, uint32_t *start, uint32_t *end) noexcept nogil
