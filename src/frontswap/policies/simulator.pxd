from libc.stdint cimport uint8_t, uint32_t, uint64_t

from frontswap.policies.arrays cimport octets, words
from frontswap.policies.contract cimport Policy

cdef uint32_t NEVER

cdef class Simulation:
    cdef readonly Policy policy
    cdef readonly uint64_t references
    cdef readonly uint64_t misses
    cdef readonly uint64_t cold
    cdef readonly uint64_t evictions
    cdef uint8_t *seen            # of each page: used, and not removed since
    cdef object marks             # the array behind it

    cdef void run(self, const uint32_t *trace, uint64_t count) noexcept nogil
    cdef void run_marked(self, const uint32_t *trace, const uint8_t *removed, uint64_t count) noexcept nogil
    cdef void use(self, uint32_t page) noexcept nogil
    cdef void remove(self, uint32_t page) noexcept nogil

cdef void look_back(const uint32_t *trace, const uint8_t *removed, uint32_t *due, uint32_t *uses, uint64_t count,
                    uint64_t references) noexcept nogil
