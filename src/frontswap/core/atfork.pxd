from frontswap.core.uapi cimport int32_t

cdef extern from * nogil:
    """
    /* Of the thread that forks: whether the handlers were there before it. */
    static __thread int fs_armed __attribute__((unused));
    #define FS_ARMED (&fs_armed)
    """
    int *armed "FS_ARMED"

ctypedef void (*fork_function)() noexcept nogil

cdef fork_function before
cdef fork_function in_parent
cdef fork_function in_child
cdef int32_t there              # 1: all three are

cdef void at_fork(fork_function prepare, fork_function parent, fork_function child) noexcept nogil

cdef void on_prepare() noexcept nogil
cdef void on_parent() noexcept nogil
cdef void on_child() noexcept nogil
