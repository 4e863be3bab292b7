from frontswap.core.layout cimport backend_t, context_t, pager_t
from frontswap.core.native cimport Native
from frontswap.core.uapi cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    PARAMETERS = 8            # the most that a filter has

ctypedef struct filter_t:     # what a filter knows
    int64_t set[PARAMETERS]   # its parameters, in the order of PARAMETER_NAMES
    int32_t full              # limit: has stopped accepting
    int32_t level             # limit: pressure
    int32_t slow              # latency: how slow it is; from `trips` on writethrough, from twice that on refusal
    int64_t until             # latency: refuse until this moment
    int64_t clock             # active_only: bytes offered so far
    int64_t random            # inject: draws so far

ctypedef filter_t *filter_p

cdef class Filter(Native):
    cdef filter_t state
    cdef tuple names

cdef int limit_store(backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data,
    uint32_t *kind) noexcept nogil
cdef int checksum_store(backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data,
    uint32_t *kind) noexcept nogil
cdef int active_store(backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data,
    uint32_t *kind) noexcept nogil
cdef int latency_store(backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data,
    uint32_t *kind) noexcept nogil
cdef int inject_store(backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, const uint8_t *data,
    uint32_t *kind) noexcept nogil
cdef int pass_load(
    backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, int more) noexcept nogil
cdef int checksum_load(
    backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, int more) noexcept nogil
cdef int active_load(
    backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, int more) noexcept nogil
cdef int inject_load(
    backend_t *b, pager_t *pg, context_t *ctx, uint32_t page, uint32_t state, int more) noexcept nogil
cdef void pass_forget(backend_t *b, pager_t *pg, uint32_t page, uint32_t state) noexcept nogil
cdef void active_refault(backend_t *b, pager_t *pg, uint32_t page, uint32_t state) noexcept nogil
cdef void active_forget_area(backend_t *b, pager_t *pg, uint32_t type) noexcept nogil
cdef void limit_pressure(backend_t *b, pager_t *pg, int level) noexcept nogil
cdef filter_t *known(backend_t *b) noexcept nogil
cdef int64_t taken_below(backend_t *b, pager_t *pg) noexcept nogil
cdef bint drawn(filter_t *f, int which) noexcept nogil
cdef void take_time(filter_t *f, pager_t *pg) noexcept nogil
cdef uint32_t checksum_of(pager_t *pg, uint32_t page, const uint8_t *data) noexcept nogil
