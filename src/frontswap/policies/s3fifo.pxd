from libc.stdint cimport uint8_t, uint32_t

from frontswap.policies.arrays cimport octets
from frontswap.policies.contract cimport Policy

cdef uint8_t OUT, SMALL, MAIN, GHOST, MOST

cdef class S3Fifo(Policy):
    cdef uint32_t room_small      # pages
    cdef uint32_t room_main
    cdef uint32_t room_ghost
    cdef uint8_t filling          # nobody had to leave yet
    cdef uint32_t returning       # a ghost that somebody leaves for
    cdef uint8_t *uses            # of each page held, up to MOST
    cdef object counts            # the array behind it

    cdef uint32_t leave_small(self) noexcept nogil
    cdef uint32_t leave_main(self) noexcept nogil
