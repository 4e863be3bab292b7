from frontswap.core.uapi cimport c_sigaction, int32_t, lock_t, sig_action, sig_handler, siginfo_t, sigset_t

cdef enum:
    RECORDS = 64

# of SIGBUS and of SIGSEGV
cdef c_sigaction recorded[2][RECORDS]  # what the program has asked for, the last one at recorded_at % RECORDS
cdef int32_t recorded_at[2]
cdef int32_t installed[2]              # our handler is
cdef int32_t with_segv                 # no thread may block SIGSEGV either
cdef lock_t record_lock
cdef int32_t owner                     # process that `installed` is said of

cdef int (*real_sigaction)(int, const c_sigaction *, c_sigaction *) noexcept nogil
cdef sig_handler (*real_signal)(int, sig_handler) noexcept nogil
cdef sig_handler (*real_sysv_signal)(int, sig_handler) noexcept nogil
cdef sig_handler (*real_sigset)(int, sig_handler) noexcept nogil
cdef int (*real_sigprocmask)(int, const sigset_t *, sigset_t *) noexcept nogil
cdef int (*real_pthread_sigmask)(int, const sigset_t *, sigset_t *) noexcept nogil
cdef int (*real_attr_setsigmask)(void *, const sigset_t *) noexcept nogil

cdef void signals_watch() noexcept nogil
cdef int signals_take(int number, sig_action handler) noexcept nogil
cdef void signals_forked() noexcept nogil
cdef void chain(int number, siginfo_t *info, void *context) noexcept nogil
cdef void chain_lost(siginfo_t *info, void *context) noexcept nogil
cdef void end_by_sigbus() noexcept nogil
cdef void chain_to_default(int number) noexcept nogil

cdef int place_of(int number) noexcept nogil
cdef bint taken(int number) noexcept nogil
cdef void let_through(sigset_t *mask) noexcept nogil
cdef bint is_function(const c_sigaction *action) noexcept nogil
cdef void record(int number, const c_sigaction *action, c_sigaction *old) noexcept nogil
cdef sig_handler record_signal(int number, sig_handler handler, int flags, bint block) noexcept nogil
cdef int our_sigaction(int number, const c_sigaction *new, c_sigaction *old) noexcept nogil
cdef sig_handler our_signal(int number, sig_handler handler) noexcept nogil
cdef sig_handler our_sysv_signal(int number, sig_handler handler) noexcept nogil
cdef sig_handler our_sigset(int number, sig_handler handler) noexcept nogil
cdef int our_sigprocmask(int how, const sigset_t *set, sigset_t *old) noexcept nogil
cdef int our_pthread_sigmask(int how, const sigset_t *set, sigset_t *old) noexcept nogil
cdef int our_attr_setsigmask(void *attributes, const sigset_t *set) noexcept nogil
