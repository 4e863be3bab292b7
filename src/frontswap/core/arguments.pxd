from frontswap.core.posixio cimport FILE
from frontswap.core.uapi cimport int32_t, uint64_t

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <poll.h>
    #include <pthread.h>
    #include <signal.h>
    #include <string.h>
    #include <sys/epoll.h>
    #include <unistd.h>
    """
    ctypedef struct stack_t:
        void *ss_sp
        int ss_flags
        size_t ss_size
    const int SS_DISABLE
    ctypedef struct poll_t "struct pollfd":
        short revents
    const uint64_t POLL_BYTES "sizeof(struct pollfd)"
    const uint64_t EPOLL_BYTES "sizeof(struct epoll_event)"
    size_t length "strlen"(const char *text)
    int pthread_attr_setstacksize(void *attributes, size_t n)
    char **environment "environ"

cdef enum:
    MOST_WAITS = 1 << 20      # descriptors of one poll(): the most of a process
    MOST_STACKS_LENT = 256
    EXEC_TURNS = 200

ctypedef void **pp_void
ctypedef char *const *strings
ctypedef poll_t *polls

ctypedef struct lent_t:       # what stands for an alternate stack in an arena
    int32_t state             # 0: free, 1: being made, 2: made
    const void *of
    size_t n
    void *instead

ctypedef int (*poll_function)(void *fds, unsigned long n, int timeout) noexcept nogil
ctypedef int (*poll_chk_function)(void *fds, unsigned long n, int timeout, size_t size) noexcept nogil
ctypedef int (*ppoll_function)(void *fds, unsigned long n, const void *timeout, const void *mask) noexcept nogil
ctypedef int (*epoll_wait_function)(int fd, void *events, int n, int timeout) noexcept nogil
ctypedef int (*epoll_pwait_function)(int fd, void *events, int n, int timeout, const void *mask) noexcept nogil
ctypedef int (*execve_function)(const char *path, strings argv, strings env) noexcept nogil
ctypedef int (*execv_function)(const char *path, strings argv) noexcept nogil
ctypedef int (*spawn_function)(
    int *pid, const char *path, const void *actions, const void *attributes, strings argv, strings env
) noexcept nogil
ctypedef int (*altstack_function)(const stack_t *new, stack_t *old) noexcept nogil
ctypedef int (*setstack_function)(void *attributes, void *at, size_t n) noexcept nogil
ctypedef int (*fputs_function)(const char *text, FILE *stream) noexcept nogil

cdef poll_function real_poll
cdef poll_chk_function real_poll_chk
cdef ppoll_function real_ppoll
cdef epoll_wait_function real_epoll_wait
cdef epoll_pwait_function real_epoll_pwait
cdef execve_function real_execve
cdef execv_function real_execv, real_execvp
cdef execve_function real_execvpe
cdef spawn_function real_posix_spawn, real_posix_spawnp
cdef altstack_function real_sigaltstack
cdef setstack_function real_setstack
cdef fputs_function real_fputs, real_fputs_unlocked

cdef lent_t lent[MOST_STACKS_LENT]
cdef uint64_t read_all        # so that reading is not left out

cdef void *outside(const void *at, uint64_t n, bint filled) noexcept nogil
cdef void polled(void *fds, void *copy, uint64_t n, int found) noexcept nogil
cdef void waited(void *events, void *copy, uint64_t n, int found) noexcept nogil
cdef bint touch_strings(strings all) noexcept nogil
cdef bint touch_arguments(const char *path, strings argv, strings env, int turn) noexcept nogil
cdef void *stack_outside(const void *at, size_t n) noexcept nogil

cdef int our_poll(void *fds, unsigned long n, int timeout) noexcept nogil
cdef int our_poll_chk(void *fds, unsigned long n, int timeout, size_t size) noexcept nogil
cdef int our_ppoll(void *fds, unsigned long n, const void *timeout, const void *mask) noexcept nogil
cdef int our_epoll_wait(int fd, void *events, int n, int timeout) noexcept nogil
cdef int our_epoll_pwait(int fd, void *events, int n, int timeout, const void *mask) noexcept nogil
cdef int our_execve(const char *path, strings argv, strings env) noexcept nogil
cdef int our_execv(const char *path, strings argv) noexcept nogil
cdef int our_execvp(const char *path, strings argv) noexcept nogil
cdef int our_execvpe(const char *path, strings argv, strings env) noexcept nogil
cdef int our_posix_spawn(
    int *pid, const char *path, const void *actions, const void *attributes, strings argv, strings env
) noexcept nogil
cdef int our_posix_spawnp(
    int *pid, const char *path, const void *actions, const void *attributes, strings argv, strings env
) noexcept nogil
cdef int our_sigaltstack(const stack_t *new, stack_t *old) noexcept nogil
cdef int our_setstack(void *attributes, void *at, size_t n) noexcept nogil
cdef int our_fputs(const char *text, FILE *stream) noexcept nogil
cdef int our_fputs_unlocked(const char *text, FILE *stream) noexcept nogil
