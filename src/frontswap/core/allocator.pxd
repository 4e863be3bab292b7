from frontswap.core.layout cimport pager_t
from frontswap.core.plane cimport Plane
from frontswap.core.uapi cimport uint8_t, uint64_t

cdef extern from "numpy/arrayobject.h" nogil:
    """
    static __thread struct { uint32_t page; int typesize, kind, error; int wanted; } fs_hint;
    """
    ctypedef struct PyDataMemAllocator:
        void *ctx
        void *(*malloc)(void *ctx, size_t size) noexcept nogil
        void *(*calloc)(void *ctx, size_t count, size_t size) noexcept nogil
        void *(*realloc)(void *ctx, void *at, size_t size) noexcept nogil
        void (*free)(void *ctx, void *at, size_t size) noexcept nogil
    ctypedef struct PyDataMem_Handler:
        char name[127]
        uint8_t version
        PyDataMemAllocator allocator

cdef extern from "numpy/arrayobject.h":
    object PyDataMem_SetHandler(object handler)
    int _import_array() except -1

cdef extern from "malloc.h" nogil:
    size_t malloc_usable_size(void *at)

# What mem.empty() tells the allocator below it about the array that NumPy is making in this thread.
cdef extern from * nogil:
    unsigned int hint_page "fs_hint.page"
    int hint_typesize "fs_hint.typesize"
    int hint_kind "fs_hint.kind"
    int hint_error "fs_hint.error"
    int hint_wanted "fs_hint.wanted"

ctypedef struct face_t:       # what NumPy holds: it outlives the pager, arrays may too
    PyDataMem_Handler handler
    pager_t *pg               # NULL when it is closed
    uint64_t base
    uint64_t size
    uint64_t threshold

cdef class Allocator:
    cdef face_t *face
    cdef object capsule
    cdef readonly Plane plane
