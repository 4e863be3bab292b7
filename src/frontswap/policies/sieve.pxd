from libc.stdint cimport uint8_t, uint32_t

from frontswap.policies.arrays cimport octets
from frontswap.policies.contract cimport Policy

cdef uint8_t QUEUE

cdef class Sieve(Policy):
    cdef uint32_t hand            # the page that is looked at next, or the end of the queue: the oldest is
    cdef uint8_t *visited
    cdef object marks             # the array behind it
