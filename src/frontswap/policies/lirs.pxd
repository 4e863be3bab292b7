from libc.stdint cimport uint8_t, uint32_t

from frontswap.policies.contract cimport Lists, Policy

cdef uint8_t OUT, HOT, COLD, GHOST, STACK

cdef class Lirs(Policy):
    cdef uint32_t room_hot        # pages
    cdef Lists stack              # of all whose reuse is known: hot pages, and cold ones and ghosts above the last of them

    cdef void reuse(self, uint32_t page) noexcept nogil
    cdef void cool(self) noexcept nogil
    cdef void prune(self) noexcept nogil
    cdef void forget(self, uint32_t page) noexcept nogil
