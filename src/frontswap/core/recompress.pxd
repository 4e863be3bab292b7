from frontswap.core.layout cimport dense_t, pager_t, record_t, segment_t
from frontswap.core.uapi cimport int64_t, uint8_t, uint32_t

cdef int64_t dense_bytes(pager_t *pg, uint32_t page) noexcept nogil
cdef void dense_layout(pager_t *pg, uint8_t *at) noexcept nogil
cdef bint recompress_step(pager_t *pg) noexcept nogil
cdef int64_t recompress_rest(pager_t *pg) noexcept nogil
cdef void *recompress_thread(void *argument) noexcept nogil

cdef int64_t room_of(uint32_t page) noexcept nogil
cdef void open_end(pager_t *pg) noexcept nogil
cdef uint32_t batch_bytes(pager_t *pg) noexcept nogil
cdef int64_t codec_bytes(pager_t *pg, uint32_t page) noexcept nogil
cdef bint has_room(pager_t *pg) noexcept nogil
cdef bint is_full(pager_t *pg) noexcept nogil
cdef uint32_t next_staged(pager_t *pg) noexcept nogil
cdef void dense_back(pager_t *pg) noexcept nogil
cdef bint buffers_there(pager_t *pg) noexcept nogil
cdef void hits_fade(pager_t *pg) noexcept nogil
cdef bint is_cold(pager_t *pg, segment_t *s) noexcept nogil
cdef void again_in(pager_t *pg, int64_t left) noexcept nogil
cdef uint32_t next_segment(pager_t *pg) noexcept nogil
cdef bint segment_begin(pager_t *pg) noexcept nogil
cdef void segment_end(pager_t *pg) noexcept nogil
cdef bint batch_take(pager_t *pg) noexcept nogil
cdef void batch_copy(pager_t *pg, uint8_t *data, uint32_t fill) noexcept nogil
cdef void batch_work(pager_t *pg, void *encoder) noexcept nogil
cdef void batch_install(pager_t *pg) noexcept nogil
cdef bint record_install(pager_t *pg, uint32_t number) noexcept nogil
