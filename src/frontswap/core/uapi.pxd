# Kernel interface and the few C helpers of the data plane: userfaultfd, futex locks, atomics.
#
# Everything here is async-signal-safe: a fault is handled inside a signal handler.
# Sources: Documentation/admin-guide/mm/userfaultfd.rst, include/uapi/linux/userfaultfd.h (6.8+: MOVE,
# 6.6+: POISON; Debian 12's header has neither, so the structs are spelled out).

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <linux/fs.h>
    #include <linux/futex.h>
    #include <linux/userfaultfd.h>
    #include <poll.h>
    #include <pthread.h>
    #include <sched.h>
    #include <signal.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/ioctl.h>
    #include <sys/eventfd.h>
    #include <sys/mman.h>
    #include <sys/resource.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <sys/sysinfo.h>
    #include <sys/uio.h>
    #include <sys/vfs.h>
    #include <time.h>
    #include <ucontext.h>
    #include <unistd.h>

    #define FS_LOAD(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #define FS_STORE(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
    #define FS_ADD(p, v) __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)
    #define FS_OR(p, v) __atomic_fetch_or((p), (v), __ATOMIC_SEQ_CST)
    #define FS_AND(p, v) __atomic_fetch_and((p), (v), __ATOMIC_SEQ_CST)
    #define FS_XCHG(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
    #define FS_CAS(p, old, new_) __extension__({ __typeof__(*(p)) fs_old_ = (old); \\
        __atomic_compare_exchange_n((p), &fs_old_, (new_), 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); })
    #if defined(__x86_64__)
    #define FS_PAUSE() __builtin_ia32_pause()
    #else
    #define FS_PAUSE() __asm__ volatile("" ::: "memory")
    #endif

    struct fs_uffdio_move { uint64_t dst, src, len, mode; int64_t move; };
    struct fs_uffdio_poison { uint64_t start, len, mode; int64_t updated; };
    #define FS_UFFDIO_MOVE _IOWR(0xAA, 0x05, struct fs_uffdio_move)
    #define FS_UFFDIO_POISON _IOWR(0xAA, 0x08, struct fs_uffdio_poison)
    #define FS_FEATURE_PAGEFAULT_FLAG_WP (1ULL << 0)
    #define FS_FEATURE_SIGBUS (1ULL << 7)
    #define FS_FEATURE_POISON (1ULL << 14)
    #define FS_FEATURE_MOVE (1ULL << 16)
    #ifndef UFFD_USER_MODE_ONLY
    #define UFFD_USER_MODE_ONLY 1
    #endif
    #ifndef MADV_COLD
    #define MADV_COLD 20
    #endif
    #ifndef MADV_POPULATE_WRITE
    #define MADV_POPULATE_READ 22
    #define MADV_POPULATE_WRITE 23
    #endif
    #define FS_USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
    #define FS_CLOSE_RANGE_UNSHARE (1U << 1)
    #define FS_CLOSE_RANGE_CLOEXEC (1U << 2)
    #ifndef SYS_close_range
    #define SYS_close_range 436
    #endif

    /* linux/fs.h, 6.7+ */
    struct fs_pm_scan_arg {
        uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
        uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
    };
    #define FS_PAGEMAP_SCAN _IOWR('f', 16, struct fs_pm_scan_arg)
    #define FS_PAGE_IS_PRESENT (1ULL << 3)
    #define FS_PAGE_IS_SWAPPED (1ULL << 4)
    #define FS_PAGE_IS_PFNZERO (1ULL << 5)
    #define FS_PAGE_IS_HUGE (1ULL << 6)
    /* Bytes of swap that the kernel has; more than 0 where it does not say. */
    static inline uint64_t fs_kernel_swap(void) {
        struct sysinfo found;
        return sysinfo(&found) ? 1 : (uint64_t)found.totalswap * found.mem_unit;
    }

    /* A futex lock (Drepper, "Futexes Are Tricky", mutex 2): pthread mutexes are not
       async-signal-safe by the standard's word. Whoever takes one outside of a fault has all
       signals blocked, or a handler of the program that faults would wait for its own thread. */
    typedef struct {
        int32_t word;
    #ifdef FS_LOCK_TIMES /* for bench/locks.py: how long it was held, by the bits of the nanoseconds and the longest */
        int64_t since, held[64], longest;
    #endif
    } fs_lock_t;
    static inline int64_t fs_clock(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return t.tv_sec * 1000000000LL + t.tv_nsec;
    }
    static inline void fs_take(int32_t *l) {
        for (int i = 0; i < 64; i++) {
            if (FS_LOAD(l) == 0 && FS_CAS(l, 0, 1)) return;
            FS_PAUSE();
        }
        while (FS_XCHG(l, 2) != 0) syscall(SYS_futex, l, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0);
    }
    /* In a forked child, where nobody holds it. */
    static inline void fs_lock_reset(fs_lock_t *l) { FS_STORE(&l->word, 0); }
    static inline void fs_lock(fs_lock_t *l) {
        fs_take(&l->word);
    #ifdef FS_LOCK_TIMES
        l->since = fs_clock();
    #endif
    }
    static inline void fs_unlock(fs_lock_t *l) {
    #ifdef FS_LOCK_TIMES
        int64_t held = fs_clock() - l->since;
        l->held[held > 0 ? 64 - __builtin_clzll(held) : 0]++;
        if (held > l->longest) l->longest = held;
    #endif
        if (FS_XCHG(&l->word, 0) == 2) syscall(SYS_futex, &l->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
    /* Bucket `i` of the time a lock was held, -1: the longest; -1 where nobody has measured. */
    static inline int64_t fs_lock_time(fs_lock_t *l, int i) {
    #ifdef FS_LOCK_TIMES
        return i < 0 ? l->longest : l->held[i];
    #else
        (void)l, (void)i;
        return -1;
    #endif
    }
    /* A wake-up that is never lost: 1 stays until the sleeper takes it. */
    static inline void fs_wake(int32_t *e) {
        if (FS_LOAD(e) == 0 && FS_XCHG(e, 1) == 0)
            syscall(SYS_futex, e, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
    static inline void fs_sleep(int32_t *e, int64_t nanoseconds) {
        struct timespec t = {nanoseconds / 1000000000, nanoseconds % 1000000000};
        if (FS_LOAD(e) == 0)
            syscall(SYS_futex, e, FUTEX_WAIT_PRIVATE, 0, nanoseconds < 0 ? NULL : &t, NULL, 0);
        FS_STORE(e, 0);
    }
    /* A word that processes share; an errno. */
    static inline int fs_futex_wait(uint32_t *word, uint32_t seen, int64_t nanoseconds) {
        struct timespec t = {nanoseconds / 1000000000, nanoseconds % 1000000000};
        return syscall(SYS_futex, word, FUTEX_WAIT, seen, &t, NULL, 0) ? errno : 0;
    }
    static inline void fs_futex_wake(uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0); }
    static inline int fs_is_file(const char *path, uint64_t inode) {
        struct stat found;
        return stat(path, &found) == 0 && found.st_ino == inode;
    }
    /* Wait for somebody else's page: spin, then yield, then sleep; `turn` counts the calls. */
    static inline void fs_backoff(int turn) {
        if (turn < 64) { FS_PAUSE(); return; }
        if (turn < 256) { sched_yield(); return; }
        struct timespec t = {0, 50000};
        nanosleep(&t, NULL);
    }
    /* The calling thread runs when nobody else wants the processor; an errno. */
    static inline int fs_run_idle(void) {
        struct sched_param none = {0};
        return sched_setscheduler(0, SCHED_IDLE, &none) ? errno : 0;
    }
    static inline void fs_pause_for(int64_t nanoseconds) {
        struct timespec t = {nanoseconds / 1000000000, nanoseconds % 1000000000};
        nanosleep(&t, NULL);
    }
    static inline void fs_block_signals(sigset_t *old) {
        sigset_t all;
        sigfillset(&all);
        sigdelset(&all, SIGBUS);
        sigdelset(&all, SIGSEGV);
        pthread_sigmask(SIG_BLOCK, &all, old);
    }
    static inline void fs_restore_signals(const sigset_t *old) { pthread_sigmask(SIG_SETMASK, old, NULL); }
    /* sigfillset() leaves the signal of pthread_cancel() out, and nanosleep(), poll() and close() look for it. */
    static inline int fs_cancel(int state) { pthread_setcancelstate(state, &state); return state; }

    /* MADV_DONTNEED over several ranges; 0 or an errno. In one call where the kernel has it for the own
       process (PIDFD_SELF, 6.14+): one TLB flush for all of them, a third of the cost on two processors. */
    static inline int fs_drop(const struct iovec *ranges, int n) {
        static int missing;
        size_t total = 0;
        for (int i = 0; i < n; i++) total += ranges[i].iov_len;
        if (n > 1 && !missing) {
            long done = syscall(SYS_process_madvise, -10000, ranges, (long)n, (long)MADV_DONTNEED, 0L);
            if (done == (long)total) return 0;
            if (done < 0 && errno != EINTR && errno != EAGAIN) missing = 1;
        }
        for (int i = 0; i < n; i++)
            if (madvise(ranges[i].iov_base, ranges[i].iov_len, MADV_DONTNEED) != 0) return errno;
        return 0;
    }
    typedef void (*fs_handler)(int);
    typedef void (*fs_action)(int, siginfo_t *, void *);

    /* The mask that a handler of the program would have: of the code that was interrupted, and its sa_mask. */
    static inline void fs_interrupted_mask(sigset_t *mask, void *context, const sigset_t *more) {
        *mask = ((ucontext_t *)context)->uc_sigmask;
        for (int i = 1; i < NSIG; i++)
            if (i != SIGBUS && i != SIGSEGV && sigismember(more, i) == 1) sigaddset(mask, i);
        sigdelset(mask, SIGBUS);
        sigdelset(mask, SIGSEGV);
    }
    static inline void fs_set_errno(int value) { errno = value; }

    /* 1: the access was a write, 0: a read. Where the machine does not say, "write" is always safe:
       it costs the record of a page that would have stayed clean. */
    static inline int fs_fault_is_write(void *context) {
    #if defined(__x86_64__)
        return (((ucontext_t *)context)->uc_mcontext.gregs[REG_ERR] & 2) != 0;
    #else
        (void)context;
        return 1;
    #endif
    }
    /* 1: the access was to run what is there, as far as the machine says. */
    static inline int fs_fault_is_fetch(void *context) {
    #if defined(__x86_64__)
        return (((ucontext_t *)context)->uc_mcontext.gregs[REG_ERR] & 16) != 0;
    #else
        (void)context;
        return 0;
    #endif
    }
    """
    uint32_t load32 "FS_LOAD"(uint32_t *p)
    void store32 "FS_STORE"(uint32_t *p, uint32_t v)
    bint cas32 "FS_CAS"(uint32_t *p, uint32_t old, uint32_t new)
    uint32_t add32 "FS_ADD"(uint32_t *p, int v)
    uint32_t or32 "FS_OR"(uint32_t *p, uint32_t v)
    uint32_t and32 "FS_AND"(uint32_t *p, uint32_t v)
    int32_t loadi "FS_LOAD"(int32_t *p)
    void storei "FS_STORE"(int32_t *p, int32_t v)
    bint casi "FS_CAS"(int32_t *p, int32_t old, int32_t new)
    int32_t addi "FS_ADD"(int32_t *p, int32_t v)
    int64_t load64 "FS_LOAD"(int64_t *p)
    void store64 "FS_STORE"(int64_t *p, int64_t v)
    bint cas64 "FS_CAS"(int64_t *p, int64_t old, int64_t new)
    int64_t add64 "FS_ADD"(int64_t *p, int64_t v)
    uint8_t *loadp "FS_LOAD"(uint8_t **p)
    void storep "FS_STORE"(uint8_t **p, uint8_t *v)
    void cpu_pause "FS_PAUSE"()

    ctypedef struct lock_t "fs_lock_t":
        pass
    void lock "fs_lock"(lock_t *l)
    void unlock "fs_unlock"(lock_t *l)
    void lock_reset "fs_lock_reset"(lock_t *l)
    int64_t lock_time "fs_lock_time"(lock_t *l, int bucket)
    void wake "fs_wake"(int32_t *e)
    int futex_wait "fs_futex_wait"(uint32_t *word, uint32_t seen, int64_t nanoseconds)
    void futex_wake "fs_futex_wake"(uint32_t *word)
    bint is_file "fs_is_file"(const char *path, uint64_t inode)
    void sleep_on "fs_sleep"(int32_t *e, int64_t nanoseconds)
    void backoff "fs_backoff"(int turn)
    int64_t clock_ns "fs_clock"()
    void pause_ns "fs_pause_for"(int64_t nanoseconds)
    int run_idle "fs_run_idle"()
    ctypedef struct sigset_t:
        pass
    void block_signals "fs_block_signals"(sigset_t *old)
    void restore_signals "fs_restore_signals"(const sigset_t *old)
    int PTHREAD_CANCEL_DISABLE
    int set_cancel "fs_cancel"(int state)
    void set_errno "fs_set_errno"(int value)
    struct iovec:
        void *iov_base
        size_t iov_len
    int drop_ranges "fs_drop"(const iovec *ranges, int n)
    bint fault_is_write "fs_fault_is_write"(void *context)
    bint fault_is_fetch "fs_fault_is_fetch"(void *context)

    # userfaultfd
    struct uffdio_api:
        uint64_t api
        uint64_t features
        uint64_t ioctls
    struct uffdio_range:
        uint64_t start
        uint64_t len
    struct uffdio_register:
        uffdio_range range
        uint64_t mode
        uint64_t ioctls
    struct uffdio_copy:
        uint64_t dst
        uint64_t src
        uint64_t len
        uint64_t mode
        int64_t copy
    struct uffdio_writeprotect:
        uffdio_range range
        uint64_t mode
    struct uffdio_move "fs_uffdio_move":
        uint64_t dst
        uint64_t src
        uint64_t len
        uint64_t mode
        int64_t move
    struct uffdio_poison "fs_uffdio_poison":
        uint64_t start
        uint64_t len
        uint64_t mode
        int64_t updated
    struct uffd_msg:
        uint8_t event
        uint64_t pf_flags "arg.pagefault.flags"
        uint64_t pf_address "arg.pagefault.address"
        int pf_thread "arg.pagefault.feat.ptid"    # with UFFD_FEATURE_THREAD_ID
    const unsigned long UFFDIO_API, UFFDIO_REGISTER, UFFDIO_COPY, UFFDIO_WRITEPROTECT, UFFDIO_WAKE
    const unsigned long UFFDIO_MOVE "FS_UFFDIO_MOVE", UFFDIO_POISON "FS_UFFDIO_POISON"
    const unsigned long USERFAULTFD_IOC_NEW "FS_USERFAULTFD_IOC_NEW"
    const uint64_t UFFD_API, UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_WP
    const uint64_t UFFDIO_COPY_MODE_WP, UFFDIO_WRITEPROTECT_MODE_WP
    const uint64_t UFFD_FEATURE_WP "FS_FEATURE_PAGEFAULT_FLAG_WP"
    const uint64_t UFFD_FEATURE_SIGBUS "FS_FEATURE_SIGBUS"
    const uint64_t UFFD_FEATURE_THREAD_ID
    const uint64_t UFFD_FEATURE_POISON "FS_FEATURE_POISON"
    const uint64_t UFFD_FEATURE_MOVE "FS_FEATURE_MOVE"
    const uint64_t UFFD_PAGEFAULT_FLAG_WRITE, UFFD_PAGEFAULT_FLAG_WP
    const int UFFD_EVENT_PAGEFAULT, UFFD_USER_MODE_ONLY
    const int SYS_userfaultfd, SYS_tgkill, SYS_gettid
    int ioctl(int fd, unsigned long request, ...)
    long syscall(long number, ...)

    # memory, files, threads
    const int PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED
    const int MAP_POPULATE
    const int MADV_DONTNEED, MADV_NOHUGEPAGE, MADV_DOFORK, MADV_DONTFORK, MADV_DONTDUMP, MADV_POPULATE_WRITE
    const int MADV_POPULATE_READ, MADV_HUGEPAGE, MADV_COLD
    int mincore(void *address, size_t length, unsigned char *present)
    uint64_t kernel_swap "fs_kernel_swap"()
    struct pm_scan_arg "fs_pm_scan_arg":
        uint64_t size
        uint64_t flags
        uint64_t start
        uint64_t end
        uint64_t walk_end
        uint64_t vec
        uint64_t vec_len
        uint64_t max_pages
        uint64_t category_inverted
        uint64_t category_mask
        uint64_t category_anyof_mask
        uint64_t return_mask
    const unsigned long PAGEMAP_SCAN "FS_PAGEMAP_SCAN"
    const uint64_t PAGE_IS_PRESENT "FS_PAGE_IS_PRESENT", PAGE_IS_SWAPPED "FS_PAGE_IS_SWAPPED"
    const uint64_t PAGE_IS_PFNZERO "FS_PAGE_IS_PFNZERO", PAGE_IS_HUGE "FS_PAGE_IS_HUGE"
    void *mmap(void *address, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *address, size_t length)
    void *mremap(void *address, size_t old, size_t new, int flags, ...)
    int mprotect(void *address, size_t length, int protection)
    int madvise(void *address, size_t length, int advice)
    const int O_APPEND, O_CLOEXEC, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY
    int getpid()
    int open(const char *path, int flags, ...)
    int close(int fd)
    const int EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned int value, int flags)
    int eventfd_write(int fd, uint64_t value)
    int pipe2(int *ends, int flags)
    int unlink(const char *path)
    const int F_GETFL, F_SETFL, O_DIRECT, O_TMPFILE
    const unsigned long FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
    const int FS_NOCOW_FL
    const int SYS_close, SYS_close_range, SYS_ioctl, SYS_read, SYS_write, SYS_pread64, SYS_pwrite64
    const int SYS_fallocate, SYS_ftruncate, SYS_sync_file_range, SYS_fadvise64, SYS_fstatfs
    ctypedef struct statfs_t "struct statfs":
        uint64_t f_frsize, f_blocks, f_bfree
    const int CLOSE_RANGE_UNSHARE "FS_CLOSE_RANGE_UNSHARE", CLOSE_RANGE_CLOEXEC "FS_CLOSE_RANGE_CLOEXEC"
    const int CLONE_FILES
    int unshare(int what)
    const int F_DUPFD_CLOEXEC
    int fcntl(int fd, int command, ...)
    ssize_t pread(int fd, void *buffer, size_t n, long offset)
    struct c_stat "stat":
        uint64_t st_dev
        uint64_t st_ino
    int c_fstat "fstat"(int fd, c_stat *found)
    struct c_rlimit "rlimit":
        uint64_t rlim_cur
    const int RLIMIT_NOFILE
    int getrlimit(int resource, c_rlimit *limit)
    ssize_t read(int fd, void *buffer, size_t n)
    ssize_t write(int fd, const void *buffer, size_t n)
    const int SYNC_FILE_RANGE_WAIT_BEFORE, SYNC_FILE_RANGE_WRITE, SYNC_FILE_RANGE_WAIT_AFTER
    const int POSIX_FADV_DONTNEED
    const int EOPNOTSUPP
    struct pollfd:
        int fd
        short events
        short revents
    const int POLLIN, POLLPRI, POLLERR, POLLHUP
    int poll(pollfd *fds, unsigned long n, int timeout)
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t *thread, void *attributes, void *(*start)(void *) noexcept nogil, void *argument)
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil, void (*child)() noexcept nogil)
    int pthread_join(pthread_t thread, void **result)

    # signals
    ctypedef struct siginfo_t:
        void *si_addr
        int si_code
        int si_signo
    ctypedef void (*sig_handler "fs_handler")(int) noexcept nogil
    ctypedef void (*sig_action "fs_action")(int, siginfo_t *, void *) noexcept nogil
    struct c_sigaction "sigaction":
        sig_handler sa_handler
        sig_action sa_sigaction
        sigset_t sa_mask
        int sa_flags
    int set_sigaction "sigaction"(int number, const c_sigaction *new, c_sigaction *old)
    int sigfillset(sigset_t *set)
    int sigaddset(sigset_t *set, int number)
    int sigdelset(sigset_t *set, int number)
    int sigismember(const sigset_t *set, int number)
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
    void interrupted_mask "fs_interrupted_mask"(sigset_t *mask, void *context, const sigset_t *more)
    const int SIG_SETMASK, SIG_UNBLOCK
    const int SIGBUS, SIGSEGV, BUS_ADRERR, SEGV_ACCERR, SA_SIGINFO, SA_NODEFER, SA_RESETHAND, SA_RESTART
    int raise_signal "raise"(int number)
    const sig_handler SIG_DFL, SIG_IGN, SIG_ERR, SIG_HOLD

from libc.errno cimport EACCES, EAGAIN, EBADF, EBUSY, EFAULT, EMFILE, EEXIST, EISDIR, EINTR, EINVAL, EIO, ENOENT, ENOMEM, ENOSPC, ENOTTY, EPERM, ETIMEDOUT, errno
