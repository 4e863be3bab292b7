from frontswap.core.uapi cimport uint64_t

cdef enum:                    # advice of madvise(2), asm-generic/mman-common.h
    MADV_NORMAL = 0
    MADV_RANDOM = 1
    MADV_SEQUENTIAL = 2
    MADV_WILLNEED = 3
    MADV_DONTNEED = 4
    MADV_FREE = 8
    MADV_MERGEABLE = 12
    MADV_DONTDUMP = 16
    MADV_DODUMP = 17
    MADV_UNMERGEABLE = 13
    MADV_HUGEPAGE = 14
    MADV_NOHUGEPAGE = 15
    MADV_COLD = 20
    MADV_PAGEOUT = 21
    MADV_DONTNEED_LOCKED = 24
    MADV_COLLAPSE = 25
    FIXED = 0x10              # MAP_FIXED
    READ_WRITE = 3

ctypedef void **pp_void
ctypedef int (*madvise_function)(void *, size_t, int) noexcept nogil
ctypedef int (*lock_function)(const void *, size_t) noexcept nogil
ctypedef int (*lock2_function)(const void *, size_t, unsigned int) noexcept nogil
ctypedef int (*all_function)(int) noexcept nogil
ctypedef int (*unmap_function)(void *, size_t) noexcept nogil
ctypedef int (*protect_function)(void *, size_t, int) noexcept nogil
ctypedef int (*key_protect_function)(void *, size_t, int, int) noexcept nogil
ctypedef void *(*remap_function)(void *, size_t, size_t, int, void *) noexcept nogil
ctypedef void *(*map_function)(void *, size_t, int, int, int, long) noexcept nogil

cdef madvise_function real_madvise
cdef madvise_function real_posix_madvise
cdef lock_function real_mlock
cdef lock2_function real_mlock2
cdef lock_function real_munlock
cdef all_function real_mlockall
cdef unmap_function real_munmap
cdef protect_function real_mprotect
cdef key_protect_function real_pkey_mprotect
cdef remap_function real_mremap
cdef map_function real_mmap
cdef map_function real_mmap64

cdef int refuse(int error) noexcept nogil
cdef void *failed(int error) noexcept nogil
cdef void *map_ours(void *address, size_t n, int protection, int flags, int fd, long offset) noexcept nogil
cdef int advise(void *address, size_t n, int advice) noexcept nogil
cdef void advise_array(uint64_t address, size_t n, int advice) noexcept nogil
cdef int our_madvise(void *address, size_t n, int advice) noexcept nogil
cdef int our_posix_madvise(void *address, size_t n, int advice) noexcept nogil
cdef int our_mlock(const void *address, size_t n) noexcept nogil
cdef int our_mlock2(const void *address, size_t n, unsigned int flags) noexcept nogil
cdef int our_munlock(const void *address, size_t n) noexcept nogil
cdef int our_mlockall(int flags) noexcept nogil
cdef int our_munmap(void *address, size_t n) noexcept nogil
cdef int our_mprotect(void *address, size_t n, int protection) noexcept nogil
cdef int our_pkey_mprotect(void *address, size_t n, int protection, int key) noexcept nogil
cdef void *our_mremap(void *address, size_t old, size_t new, int flags, void *to) noexcept nogil
cdef void *our_mmap(void *address, size_t n, int protection, int flags, int fd, long offset) noexcept nogil
cdef void *our_mmap64(void *address, size_t n, int protection, int flags, int fd, long offset) noexcept nogil
