cdef int (*real_close)(int) noexcept nogil
cdef int (*real_close_range)(unsigned int, unsigned int, int) noexcept nogil
cdef void (*real_closefrom)(int) noexcept nogil
cdef int (*real_dup2)(int, int) noexcept nogil
cdef int (*real_dup3)(int, int, int) noexcept nogil

cdef void descriptors_watch() noexcept nogil

cdef int our_close(int fd) noexcept nogil
cdef int our_close_range(unsigned int first, unsigned int last, int flags) noexcept nogil
cdef void our_closefrom(int low) noexcept nogil
cdef int our_dup2(int old, int new) noexcept nogil
cdef int our_dup3(int old, int new, int flags) noexcept nogil
