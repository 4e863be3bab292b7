from frontswap.core.got cimport image_t
from frontswap.core.posixio cimport FILE, ssize_t
from frontswap.core.uapi cimport uint64_t

cdef enum:
    PAGE = 4096
    MOST_ALIGN = 1 << 21      # an array starts a chunk

cdef extern from * nogil:
    """
    #define FS_CALLER() __builtin_return_address(0)
    """
    const void *caller "FS_CALLER"()          # who has called the function that this stands in

ctypedef void **pp_void
ctypedef char *chars
ctypedef void *(*malloc_function)(size_t n) noexcept nogil
ctypedef void *(*calloc_function)(size_t count, size_t n) noexcept nogil
ctypedef void *(*realloc_function)(void *at, size_t n) noexcept nogil
ctypedef void (*free_function)(void *at) noexcept nogil
ctypedef int (*posix_memalign_function)(void **at, size_t align, size_t n) noexcept nogil
ctypedef void *(*aligned_function)(size_t align, size_t n) noexcept nogil
ctypedef size_t (*usable_function)(void *at) noexcept nogil
ctypedef ssize_t (*getdelim_function)(chars *line, size_t *n, int delimiter, FILE *stream) noexcept nogil
ctypedef ssize_t (*getline_function)(chars *line, size_t *n, FILE *stream) noexcept nogil
ctypedef int (*setvbuf_function)(FILE *stream, char *buffer, int mode, size_t n) noexcept nogil

cdef malloc_function real_malloc, real_valloc, real_pvalloc
cdef calloc_function real_calloc
cdef realloc_function real_realloc
cdef void *real_reallocarray
cdef free_function real_free
cdef posix_memalign_function real_posix_memalign
cdef aligned_function real_aligned_alloc, real_memalign
cdef usable_function real_usable
cdef getdelim_function real_getdelim, real_getdelim_
cdef getline_function real_getline
cdef setvbuf_function real_setvbuf

cdef image_t its_libc         # libc, and the dynamic linker
cdef image_t its_linker

cdef bint is_internal(const void *caller) noexcept nogil
cdef void *heap_take(uint64_t n, bint zeroed, bint growing, bint *elsewhere) noexcept nogil
cdef void heap_give(void *at) noexcept nogil
cdef uint64_t heap_usable(void *at) noexcept nogil
cdef void *take_aligned(uint64_t align, uint64_t n, bint *elsewhere) noexcept nogil
cdef bint leave(chars *line, size_t *n) noexcept nogil

cdef void *our_malloc(size_t n) noexcept nogil
cdef void *our_calloc(size_t count, size_t n) noexcept nogil
cdef void *our_realloc(void *at, size_t n) noexcept nogil
cdef void *our_reallocarray(void *at, size_t count, size_t n) noexcept nogil
cdef void our_free(void *at) noexcept nogil
cdef int our_posix_memalign(void **at, size_t align, size_t n) noexcept nogil
cdef void *our_aligned_alloc(size_t align, size_t n) noexcept nogil
cdef void *our_memalign(size_t align, size_t n) noexcept nogil
cdef void *our_valloc(size_t n) noexcept nogil
cdef void *our_pvalloc(size_t n) noexcept nogil
cdef size_t our_usable(void *at) noexcept nogil
cdef ssize_t our_getdelim(chars *line, size_t *n, int delimiter, FILE *stream) noexcept nogil
cdef ssize_t our_getdelim_(chars *line, size_t *n, int delimiter, FILE *stream) noexcept nogil
cdef ssize_t our_getline(chars *line, size_t *n, FILE *stream) noexcept nogil
cdef int our_setvbuf(FILE *stream, char *buffer, int mode, size_t n) noexcept nogil
