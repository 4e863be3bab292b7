from frontswap.core.uapi cimport uint8_t, uint64_t

cdef int uffd_copy(
    int fd, uint64_t to, const void *data, uint64_t size, bint protected, bint again) noexcept nogil
cdef int uffd_protect(int fd, uint64_t address, uint64_t size, bint on) noexcept nogil
cdef int uffd_move(int fd, uint64_t to, uint64_t address, uint64_t size) noexcept nogil
cdef int uffd_bring(int fd, uint64_t to, uint64_t address, uint64_t size) noexcept nogil
cdef int uffd_finish(int fd, uint64_t to, uint64_t address, uint64_t size) noexcept nogil
cdef int move_on(int fd, uint64_t to, uint64_t address, uint64_t size, uint64_t *done) noexcept nogil
cdef int uffd_poison(int fd, uint64_t address, uint64_t size) noexcept nogil
cdef void uffd_wake(int fd, uint64_t address, uint64_t size) noexcept nogil
cdef int uffd_new(bint *user_mode) noexcept nogil
cdef int uffd_open(uint64_t features, bint *user_mode) noexcept nogil
cdef uint64_t uffd_features() noexcept nogil
cdef int uffd_register(int fd, uint64_t address, uint64_t size, uint64_t mode) noexcept nogil
cdef void die(const char *what, int error) noexcept nogil
cdef void say(const char *text) noexcept nogil
