from libc.stdint cimport uint8_t, uint32_t, uint64_t

from frontswap.policies.arrays cimport words
from frontswap.policies.contract cimport Policy

cdef uint8_t OUT, HELD
cdef uint32_t NEVER

cdef class Belady(Policy):
    cdef uint32_t *next_uses      # of each reference
    cdef uint64_t references
    cdef uint64_t now             # the number of the reference that comes
    cdef uint32_t *heap           # pages held; who is used last of all is on top
    cdef uint32_t *spot           # of each page held: where it is in the heap
    cdef uint32_t *due            # of each page held: when it is used next
    cdef object behind            # the arrays behind the pointers

    cdef void advance(self, uint32_t page) noexcept nogil
    cdef void put(self, uint32_t at, uint32_t page) noexcept nogil
    cdef void rise(self, uint32_t at, uint32_t page) noexcept nogil
    cdef void sink(self, uint32_t at, uint32_t page) noexcept nogil
    cdef void take(self, uint32_t page) noexcept nogil
