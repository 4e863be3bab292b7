from frontswap.core.layout cimport MAX_FILES, pager_t
from frontswap.core.uapi cimport int32_t, lock_t, pthread_t, uint64_t

cdef enum:
    MOST_GUARDED = 4096       # a Memory has few; each of its forked children that lives, one more
    MOST_KEEPERS = 64
    KEPT = 2 * MAX_FILES + 2  # userfaultfd, the event that ends handler threads, swap files, leases of its own

ctypedef struct guard_t:      # a descriptor of ours
    int32_t number            # of the descriptor, + 1; 0: free, -1: being written
    uint64_t device           # what it is open on, to know it from another file that has got its number
    uint64_t inode

cdef enum:                    # keeper_t.state
    KEEPER_FREE = 0
    KEEPER_STARTING = 1
    KEEPER_READY = 2
    KEEPER_REFUSED = 3        # this machine gives a thread no table of its own

ctypedef struct keeper_t:     # a thread with a descriptor table of its own, and the system call it is asked for
    int32_t state
    pager_t *pg
    int fds[KEPT]
    pthread_t thread
    int32_t event             # wakes the keeper
    int32_t ended
    lock_t lock               # one question at a time
    int32_t asked             # 1: a question, 2: its answer
    int32_t answer            # wakes who has asked
    long number
    long arguments[4]
    long result
    int error

ctypedef keeper_t *keeper_p

cdef guard_t guards[MOST_GUARDED]
cdef int32_t guards_end                # none is in use from here on
cdef int32_t guards_low                # no descriptor below has ever been guarded; 0: none at all
cdef keeper_t keepers[MOST_KEEPERS]

cdef int guard(int fd) noexcept nogil
cdef void unguard(int fd) noexcept nogil
cdef bint ours(int fd) noexcept nogil
cdef int next_ours(unsigned int first, unsigned int last) noexcept nogil
cdef long guarded_call(long number, int fd, long a, long b, long c) noexcept nogil
cdef int guarded_ioctl(int fd, unsigned long request, void *argument) noexcept nogil
cdef long kept_call(long number, int fd, long a, long b, long c) noexcept nogil
cdef int own_table(pager_t *pg) noexcept nogil
cdef int keeper_start(pager_t *pg) noexcept nogil
cdef void keeper_stop(pager_t *pg) noexcept nogil
cdef void keepers_forked() noexcept nogil

cdef int find_guard(int fd) noexcept nogil
cdef keeper_t *keeper_of(int fd) noexcept nogil
cdef void *keeper_thread(void *argument) noexcept nogil
cdef bint same_file(int fd, const guard_t *g) noexcept nogil
cdef int own_table_of(const int *fds) noexcept nogil
cdef void kept_fds(const pager_t *pg, int *fds, bint leases) noexcept nogil
