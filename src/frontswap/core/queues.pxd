from frontswap.core.bounce cimport call_t, one_function
from frontswap.core.posixio cimport ssize_t, timespec
from frontswap.core.uapi cimport uint64_t

cdef enum:
    TYPE_BYTES = 8            # of msgbuf.mtype, in front of the message
    MOST_MESSAGE = 0x7FFFF000 # bytes: no message is longer, whatever room there is said to be

ctypedef int (*mq_send_function)(int fd, const char *buffer, size_t n, unsigned int priority) noexcept nogil
ctypedef int (*mq_timedsend_function)(
    int fd, const char *buffer, size_t n, unsigned int priority, const timespec *until) noexcept nogil
ctypedef ssize_t (*mq_receive_function)(int fd, char *buffer, size_t n, unsigned int *priority) noexcept nogil
ctypedef ssize_t (*mq_timedreceive_function)(
    int fd, char *buffer, size_t n, unsigned int *priority, const timespec *until) noexcept nogil
ctypedef int (*msgsnd_function)(int queue, const void *message, size_t n, int flags) noexcept nogil
ctypedef ssize_t (*msgrcv_function)(int queue, void *message, size_t n, long kind, int flags) noexcept nogil

cdef mq_send_function real_mq_send
cdef mq_timedsend_function real_mq_timedsend
cdef mq_receive_function real_mq_receive
cdef mq_timedreceive_function real_mq_timedreceive
cdef msgsnd_function real_msgsnd
cdef msgrcv_function real_msgrcv

ctypedef struct message_t:
    call_t call
    unsigned int priority
    bint timed
    const timespec *until
    long kind
    int flags

ctypedef message_t *message_p

cdef ssize_t one_mq_send(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef ssize_t one_mq_receive(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef ssize_t one_msgsnd(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef ssize_t one_msgrcv(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef bint has_message(const void *buffer, size_t n) noexcept nogil
cdef void message_begin(message_t *m, one_function one, int fd) noexcept nogil
cdef int send_message(
    int fd, const char *buffer, size_t n, unsigned int priority, const timespec *until, bint timed) noexcept nogil
cdef ssize_t receive_message(
    int fd, char *buffer, size_t n, unsigned int *priority, const timespec *until, bint timed) noexcept nogil

cdef int our_mq_send(int fd, const char *buffer, size_t n, unsigned int priority) noexcept nogil
cdef int our_mq_timedsend(
    int fd, const char *buffer, size_t n, unsigned int priority, const timespec *until) noexcept nogil
cdef ssize_t our_mq_receive(int fd, char *buffer, size_t n, unsigned int *priority) noexcept nogil
cdef ssize_t our_mq_timedreceive(
    int fd, char *buffer, size_t n, unsigned int *priority, const timespec *until) noexcept nogil
cdef int our_msgsnd(int queue, const void *message, size_t n, int flags) noexcept nogil
cdef ssize_t our_msgrcv(int queue, void *message, size_t n, long kind, int flags) noexcept nogil
