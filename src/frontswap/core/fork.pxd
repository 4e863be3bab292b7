from frontswap.core.layout cimport block_t, pager_t

cdef extern from * nogil:
    """
    #include <sys/wait.h>
    #include <unistd.h>
    /* Of the thread that forks: whether through our_fork(), and why it fails. */
    static __thread int fs_forked_here, fs_forked_error;
    #define FS_FORKED_HERE (&fs_forked_here)
    #define FS_FORKED_ERROR (&fs_forked_error)
    """
    int *forked_here "FS_FORKED_HERE"
    int *forked_error "FS_FORKED_ERROR"
    int waitpid(int pid, int *status, int options)
    void _exit(int status)

cdef int (*real_fork)() noexcept nogil

cdef int our_fork() noexcept nogil
cdef void fork_prepare() noexcept nogil
cdef void fork_parent() noexcept nogil
cdef void fork_child() noexcept nogil

cdef void inherit(pager_t *pg, int advice) noexcept nogil
cdef int ready(pager_t *pg) noexcept nogil
cdef void prepare_one(pager_t *pg) noexcept nogil
cdef void parent_one(pager_t *pg) noexcept nogil
cdef void child_one(pager_t *pg) noexcept nogil
cdef void child_files(pager_t *pg) noexcept nogil
cdef void protect_clean(pager_t *pg, block_t *block) noexcept nogil
