from frontswap.core.layout cimport backend_t, context_t, pager_t, record_t
from frontswap.core.uapi cimport int64_t, uint8_t, uint32_t, uint64_t

cdef int frontswap_store(
    pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data, uint32_t *kind) noexcept nogil
cdef int frontswap_load(
    pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, int more) noexcept nogil
cdef void frontswap_invalidate_page(pager_t *pg, uint32_t page, uint32_t state) noexcept nogil
cdef int slot_store(pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data, uint32_t *kind) noexcept nogil
cdef int record_load(
    pager_t *pg, context_t *ctx, uint32_t page, const record_t *record, uint64_t where) noexcept nogil

cdef enum:                    # why a load failed; positive values are errno of the read
    LOAD_HEADER = -1
    LOAD_CHECKSUM = -2
    LOAD_CODEC = -3
