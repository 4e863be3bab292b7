from frontswap.core.codec cimport codec_checksum
from frontswap.core.layout cimport context_t, pager_t, record_t
from frontswap.core.uapi cimport uint8_t, uint32_t, uint64_t

cdef extern from * nogil:
    void prefetch "__builtin_prefetch"(const void *at)

cdef enum:
    CACHE_LINE = 64
    FETCHED = 4096            # bytes of a record, or of its place, that the processor is asked for ahead: no more is needed

cdef enum:                    # why a load failed; positive values are errno of the read
    LOAD_HEADER = -1
    LOAD_CHECKSUM = -2
    LOAD_CODEC = -3
    LOAD_BACKEND = -4         # the backend that had the page does not give it back
    LOAD_SHORT = -5           # it gives a part of it back

cdef inline uint32_t check_of(uint32_t page, uint32_t length, uint8_t codec, const uint8_t *data) noexcept nogil:
    """The checksum of a record: of its bytes, and of whose they are."""
    return codec_checksum(data, length, page | (<uint64_t>length << 32) | (<uint64_t>codec << 56))

cdef int record_make(pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data) noexcept nogil
cdef void record_plain(pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data) noexcept nogil
cdef int record_load(
    pager_t *pg, context_t *ctx, uint32_t page, const record_t *record, uint64_t where) noexcept nogil
cdef void fetch_ahead(pager_t *pg, uint32_t number, uint32_t at, uint32_t n) noexcept nogil
cdef void record_ahead(pager_t *pg, uint32_t page) noexcept nogil
cdef void room_ahead(pager_t *pg) noexcept nogil
cdef int log_load(pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, int more) noexcept nogil
cdef const char *load_cause(int cause) noexcept nogil
