from libc.stdint cimport uint8_t, uint32_t

from frontswap.policies.contract cimport Policy
from frontswap.policies.lru cimport Lru
from frontswap.policies.simulator cimport Simulation

cdef uint8_t QUEUE
cdef int MOST

cdef class Duel(Lru):
    cdef readonly Policy other    # it knows the same pages as this LRU list
    cdef readonly Simulation alone        # the other policy and LRU, on the sample, each as if there were no other one
    cdef readonly Simulation alone_lru
    cdef uint8_t shift            # one page of 2**shift is in the sample
    cdef readonly int score       # above 0 the other policy leads, else LRU

    cdef bint sampled(self, uint32_t page) noexcept nogil
    cdef void compare(self, uint32_t page) noexcept nogil
