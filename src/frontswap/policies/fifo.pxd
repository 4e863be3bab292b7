from libc.stdint cimport uint8_t, uint32_t

from frontswap.policies.contract cimport Policy

cdef uint8_t QUEUE

cdef class Fifo(Policy):
    pass
