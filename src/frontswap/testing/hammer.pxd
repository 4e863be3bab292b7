from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef uint64_t mixed(uint64_t x) noexcept nogil
cdef uint64_t pattern(uint64_t granule, uint64_t word, uint64_t salt) noexcept nogil
cdef void fill_granule(uint64_t *words, uint64_t granule, uint64_t salt) noexcept nogil
cdef int64_t check_granule(const uint64_t *words, uint64_t granule, uint64_t salt) noexcept nogil

cdef struct report_t:
    uint64_t operations
    uint64_t writes
    int64_t granule         # the first wrong one, -1: none
    uint64_t word
    uint64_t found
    uint64_t expected

cdef void hammer_loop(uint64_t *base, uint64_t granules, uint64_t *shadow, int thread, uint64_t salt,
                      uint64_t seed, int32_t *stop, report_t *report) noexcept nogil
cdef void visit_loop(uint64_t *base, uint64_t granules, uint8_t *known, uint64_t thread, uint64_t threads,
                     uint64_t salt, uint64_t seed, int32_t *stop, report_t *report) noexcept nogil
cdef bint granule_is(const uint64_t *words, uint64_t granule, uint64_t salt, bint written) noexcept nogil
