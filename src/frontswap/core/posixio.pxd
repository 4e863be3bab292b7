# What core/bounce.py, core/calls.py, core/sockets.py and core/queues.py need of libc.

from frontswap.core.uapi cimport int64_t, iovec, uint8_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <limits.h>
    #include <mqueue.h>
    #include <netinet/in.h>
    #include <pthread.h>
    #include <stdio.h>
    #include <sys/msg.h>
    #include <sys/socket.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <sys/sysmacros.h>
    #include <unistd.h>

    /* What a descriptor is, for a transfer that is larger than one piece. */
    enum { FS_BAD, FS_FILE, FS_STREAM, FS_RECORDS };
    static inline int fs_fd_kind(int fd) {
        struct stat st;
        int type = 0, protocol = 0;
        socklen_t n = sizeof type, m = sizeof protocol;
        if (fstat(fd, &st) != 0) return FS_BAD;
        if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) return FS_FILE;
        if (S_ISFIFO(st.st_mode)) return FS_STREAM;
        if (S_ISDIR(st.st_mode)) return FS_BAD;
        /* null, zero, full, random: they give and take all that is asked for */
        if (S_ISCHR(st.st_mode)) return major(st.st_rdev) == 1 ? FS_FILE : isatty(fd) ? FS_STREAM : FS_RECORDS;
        if (!S_ISSOCK(st.st_mode)) return FS_RECORDS;
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) != 0) return FS_RECORDS;
        if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &m) != 0) return FS_RECORDS;
        /* SCTP's streams have messages; 262 is MPTCP */
        return type == SOCK_STREAM && (protocol == 0 || protocol == IPPROTO_TCP || protocol == 262)
            ? FS_STREAM : FS_RECORDS;
    }

    /* The bytes that a pipe holds at most; -1: it is none. `out`: it can be written to. */
    static inline int fs_pipe_room(int fd, int *out) {
        int flags = fcntl(fd, F_GETFL);
        *out = (flags & O_ACCMODE) != O_RDONLY;
        return flags < 0 ? -1 : fcntl(fd, F_GETPIPE_SZ);
    }

    /* The bytes of the longest message that mq_send() takes; -1: it is no queue. Not by mq_getattr(): that may be in
       librt. */
    static inline long fs_mq_longest(int fd) {
        struct mq_attr attributes;
        return syscall(SYS_mq_getsetattr, fd, NULL, &attributes) == 0 ? attributes.mq_msgsize : -1;
    }

    /* The bytes of the longest message that msgsnd() takes now; INT_MAX, which is the most there can be: not told. */
    static inline long fs_msg_longest(void) {
        struct msginfo limits;
        return msgctl(0, IPC_INFO, (struct msqid_ds *)&limits) >= 0 ? limits.msgmax : INT_MAX;
    }

    /* A function that works on a stdio stream in several steps, while no other thread does. Unlocked if the thread is
       cancelled on its way, too. */
    static inline size_t fs_locked(FILE *stream, size_t (*work)(void *), void *argument) {
        size_t done;
        flockfile(stream);
        pthread_cleanup_push((void (*)(void *))funlockfile, stream);
        done = work(argument);
        pthread_cleanup_pop(1);
        return done;
    }
    """
    ctypedef long ssize_t
    ctypedef unsigned int socklen_t
    ctypedef unsigned int pthread_key_t
    ctypedef struct FILE:
        pass
    ctypedef struct timespec "struct timespec":
        long tv_sec
        long tv_nsec
    ctypedef struct msghdr "struct msghdr":
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    ctypedef struct mmsghdr "struct mmsghdr":
        msghdr msg_hdr
        unsigned int msg_len
    const int FD_BAD "FS_BAD", FD_FILE "FS_FILE", FD_STREAM "FS_STREAM", FD_RECORDS "FS_RECORDS"
    int fd_kind "fs_fd_kind"(int fd)
    int pipe_room "fs_pipe_room"(int fd, int *out)
    long mq_longest "fs_mq_longest"(int fd)
    long msg_longest "fs_msg_longest"()
    size_t with_stream_locked "fs_locked"(FILE *stream, size_t (*work)(void *) noexcept nogil, void *argument)
    const int MSG_PEEK, MSG_TRUNC, MSG_WAITALL, MSG_DONTWAIT, MSG_FASTOPEN, MSG_ZEROCOPY, MSG_WAITFORONE, MSG_OOB
    int pthread_key_create(pthread_key_t *key, void (*destructor)(void *) noexcept nogil)
    void *pthread_getspecific(pthread_key_t key)
    int pthread_setspecific(pthread_key_t key, const void *value)
