from libc.stdint cimport uint32_t

from frontswap.policies.fifo cimport Fifo

cdef class Lru(Fifo):
    pass
