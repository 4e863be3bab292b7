from frontswap.core.uapi cimport uint64_t

cdef uint64_t map_reach(uint64_t address, uint64_t n, bint write) noexcept nogil

cdef bint may_touch(uint64_t at, bint write) noexcept nogil
