from frontswap.core.uapi cimport uint64_t

cdef void protection_prepare(uint64_t address) noexcept nogil
cdef int memory_open() noexcept nogil
cdef int memory_try() noexcept nogil
cdef int protection_fill(int fd, uint64_t to, const void *data, uint64_t size, bint protected) noexcept nogil
cdef int protection_open(uint64_t address, uint64_t size, bint protected, bint patient) noexcept nogil
cdef int protection_join(uint64_t address) noexcept nogil
cdef int protection_room(int n) noexcept nogil
cdef int protection_close(uint64_t address, uint64_t size, bint patient) noexcept nogil

cdef bint is_open(int fd) noexcept nogil
cdef int write_all(int fd, uint64_t to, const void *data, uint64_t size, bint kept) noexcept nogil
cdef int arrange(uint64_t address, uint64_t size, int protection, bint patient) noexcept nogil
