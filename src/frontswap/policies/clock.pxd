from libc.stdint cimport uint8_t, uint32_t

from frontswap.policies.arrays cimport octets
from frontswap.policies.contract cimport Policy

cdef uint8_t QUEUE

cdef class Clock(Policy):
    cdef uint8_t *used            # of each page: since the hand passed
    cdef object marks             # the array behind it
