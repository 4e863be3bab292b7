from libc.stdint cimport uint8_t, uint32_t

from frontswap.policies.contract cimport Policy

cdef uint8_t OUT, ONCE, OFTEN, GHOSTS_ONCE, GHOSTS_OFTEN

cdef class Arc(Policy):
    cdef double target            # pages: the room for those that were used once
    cdef uint32_t learnt          # the page whose return as a ghost has moved the target already

    cdef void learn(self, uint32_t page) noexcept nogil
