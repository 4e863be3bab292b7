from frontswap.core.layout cimport block_t, pager_t
from frontswap.core.uapi cimport uint32_t

cdef extern from * nogil:
    """
    #include <sys/wait.h>
    #include <unistd.h>
    /* Of the thread that forks: whether through our_fork(), and why it fails. */
    static __thread int fs_forked_here, fs_forked_error;
    /* glibc's lock of the list of all streams, recursive; fork() takes it after the handlers. Elsewhere: none. */
    extern void _IO_list_lock(void) __attribute__((weak));
    extern void _IO_list_unlock(void) __attribute__((weak));
    extern void _IO_list_resetlock(void) __attribute__((weak));
    static inline void fs_streams_lock(void) { if (_IO_list_lock) _IO_list_lock(); }
    static inline void fs_streams_unlock(void) { if (_IO_list_unlock) _IO_list_unlock(); }
    static inline void fs_streams_reset(void) { if (_IO_list_resetlock) _IO_list_resetlock(); }
    #define FS_FORKED_HERE (&fs_forked_here)
    #define FS_FORKED_ERROR (&fs_forked_error)
    """
    int *forked_here "FS_FORKED_HERE"
    int *forked_error "FS_FORKED_ERROR"
    void streams_lock "fs_streams_lock"()
    void streams_unlock "fs_streams_unlock"()
    void streams_reset "fs_streams_reset"()
    int waitpid(int pid, int *status, int options)
    void _exit(int status)

cdef int (*real_fork)() noexcept nogil

cdef int generation                  # forks between this process and the one that was started

cdef int our_fork() noexcept nogil
cdef void fork_prepare() noexcept nogil
cdef void fork_parent() noexcept nogil
cdef void fork_child() noexcept nogil

cdef void inherit(pager_t *pg, int advice) noexcept nogil
cdef const char *what_is_refused(int error) noexcept nogil
cdef int ready(pager_t *pg) noexcept nogil
cdef void prepare_one(pager_t *pg) noexcept nogil
cdef void parent_one(pager_t *pg) noexcept nogil
cdef void child_one(pager_t *pg) noexcept nogil
cdef void child_files(pager_t *pg) noexcept nogil
cdef void protect_block(pager_t *pg, block_t *block) noexcept nogil
cdef void protect_clean(pager_t *pg, block_t *block, uint32_t first, uint32_t end) noexcept nogil
