from frontswap.core.bounce cimport call_t
from frontswap.core.posixio cimport mmsghdr, msghdr, socklen_t, ssize_t, timespec
from frontswap.core.uapi cimport int64_t, iovec, uint8_t, uint64_t

cdef enum:
    MOST_NAME = 128           # sizeof(struct sockaddr_storage)

ctypedef ssize_t (*send_function)(int fd, const void *buffer, size_t n, int flags) noexcept nogil
ctypedef ssize_t (*recv_function)(int fd, void *buffer, size_t n, int flags) noexcept nogil
ctypedef ssize_t (*sendto_function)(
    int fd, const void *buffer, size_t n, int flags, const void *name, socklen_t name_bytes) noexcept nogil
ctypedef ssize_t (*recvfrom_function)(
    int fd, void *buffer, size_t n, int flags, void *name, socklen_t *name_bytes) noexcept nogil
ctypedef ssize_t (*sendmsg_function)(int fd, const msghdr *message, int flags) noexcept nogil
ctypedef ssize_t (*recvmsg_function)(int fd, msghdr *message, int flags) noexcept nogil
ctypedef int (*sendmmsg_function)(int fd, mmsghdr *messages, unsigned int n, int flags) noexcept nogil
ctypedef int (*recvmmsg_function)(
    int fd, mmsghdr *messages, unsigned int n, int flags, timespec *timeout) noexcept nogil
ctypedef ssize_t (*recv_chk_function)(int fd, void *buffer, size_t n, size_t room, int flags) noexcept nogil
ctypedef ssize_t (*recvfrom_chk_function)(
    int fd, void *buffer, size_t n, size_t room, int flags, void *name, socklen_t *name_bytes) noexcept nogil

cdef send_function real_send
cdef recv_function real_recv
cdef sendto_function real_sendto
cdef recvfrom_function real_recvfrom
cdef sendmsg_function real_sendmsg
cdef recvmsg_function real_recvmsg
cdef sendmmsg_function real_sendmmsg
cdef recvmmsg_function real_recvmmsg
cdef recv_chk_function real_recv_chk
cdef recvfrom_chk_function real_recvfrom_chk

ctypedef struct peer_t:       # the other end's name, out of the arena
    uint8_t name[MOST_NAME]
    socklen_t bytes
    bint given

ctypedef peer_t *peer_p
ctypedef msghdr *msghdr_p
ctypedef iovec *iovec_p

cdef ssize_t one_send(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef ssize_t one_recv(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef ssize_t one_sendmsg(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef ssize_t one_recvmsg(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef int later_flags(const call_t *c, uint64_t done) noexcept nogil
cdef ssize_t send_out(
    int fd, const void *buffer, size_t n, int flags, const void *name, socklen_t name_bytes) noexcept nogil
cdef ssize_t receive(int fd, void *buffer, size_t n, int flags, void *name, socklen_t *name_bytes) noexcept nogil
cdef bint message_in_arena(const msghdr *message) noexcept nogil
cdef ssize_t message_out(int fd, const msghdr *message, int flags) noexcept nogil
cdef ssize_t message_in(int fd, msghdr *message, int flags) noexcept nogil
cdef bint messages_in_arena(const mmsghdr *messages, unsigned int n) noexcept nogil
cdef bint is_over(int64_t end, timespec *timeout) noexcept nogil

cdef ssize_t our_send(int fd, const void *buffer, size_t n, int flags) noexcept nogil
cdef ssize_t our_recv(int fd, void *buffer, size_t n, int flags) noexcept nogil
cdef ssize_t our_sendto(
    int fd, const void *buffer, size_t n, int flags, const void *name, socklen_t name_bytes) noexcept nogil
cdef ssize_t our_recvfrom(
    int fd, void *buffer, size_t n, int flags, void *name, socklen_t *name_bytes) noexcept nogil
cdef ssize_t our_sendmsg(int fd, const msghdr *message, int flags) noexcept nogil
cdef ssize_t our_recvmsg(int fd, msghdr *message, int flags) noexcept nogil
cdef int our_sendmmsg(int fd, mmsghdr *messages, unsigned int n, int flags) noexcept nogil
cdef int our_recvmmsg(int fd, mmsghdr *messages, unsigned int n, int flags, timespec *timeout) noexcept nogil
cdef ssize_t our_recv_chk(int fd, void *buffer, size_t n, size_t room, int flags) noexcept nogil
cdef ssize_t our_recvfrom_chk(
    int fd, void *buffer, size_t n, size_t room, int flags, void *name, socklen_t *name_bytes) noexcept nogil
