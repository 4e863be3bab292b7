from frontswap.core.bounce cimport call_t
from frontswap.core.posixio cimport FILE, ssize_t
from frontswap.core.uapi cimport int64_t, iovec, uint64_t

ctypedef ssize_t (*read_function)(int fd, void *buffer, size_t n) noexcept nogil
ctypedef ssize_t (*write_function)(int fd, const void *buffer, size_t n) noexcept nogil
ctypedef ssize_t (*pread_function)(int fd, void *buffer, size_t n, long offset) noexcept nogil
ctypedef ssize_t (*pwrite_function)(int fd, const void *buffer, size_t n, long offset) noexcept nogil
ctypedef ssize_t (*readv_function)(int fd, const iovec *vector, int count) noexcept nogil
ctypedef ssize_t (*preadv_function)(int fd, const iovec *vector, int count, long offset) noexcept nogil
ctypedef ssize_t (*preadv2_function)(int fd, const iovec *vector, int count, long offset, int flags) noexcept nogil
ctypedef ssize_t (*getrandom_function)(void *buffer, size_t n, unsigned int flags) noexcept nogil
ctypedef int (*getentropy_function)(void *buffer, size_t n) noexcept nogil
ctypedef ssize_t (*vmsplice_function)(int fd, const iovec *vector, size_t count, unsigned int flags) noexcept nogil
ctypedef size_t (*fread_function)(void *buffer, size_t size, size_t n, FILE *stream) noexcept nogil
ctypedef size_t (*fwrite_function)(const void *buffer, size_t size, size_t n, FILE *stream) noexcept nogil
ctypedef ssize_t (*read_chk_function)(int fd, void *buffer, size_t n, size_t room) noexcept nogil
ctypedef ssize_t (*pread_chk_function)(int fd, void *buffer, size_t n, long offset, size_t room) noexcept nogil
ctypedef size_t (*fread_chk_function)(
    void *buffer, size_t room, size_t size, size_t n, FILE *stream) noexcept nogil

# The functions that the process is bound to. Those with 64 in their name take the same arguments on 64-bit machines.
cdef read_function real_read
cdef write_function real_write
cdef pread_function real_pread, real_pread64
cdef pwrite_function real_pwrite, real_pwrite64
cdef readv_function real_readv, real_writev
cdef preadv_function real_preadv, real_preadv64, real_pwritev, real_pwritev64
cdef preadv2_function real_preadv2, real_preadv64v2, real_pwritev2, real_pwritev64v2
cdef getrandom_function real_getrandom
cdef getentropy_function real_getentropy
cdef vmsplice_function real_vmsplice
cdef fread_function real_fread, real_fread_unlocked
cdef fwrite_function real_fwrite, real_fwrite_unlocked
cdef read_chk_function real_read_chk
cdef pread_chk_function real_pread_chk, real_pread64_chk
cdef fread_chk_function real_fread_chk, real_fread_unlocked_chk

cdef ssize_t one_read(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef ssize_t one_write(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef ssize_t one_pread(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef ssize_t one_pwrite(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef ssize_t one_preadv2(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef ssize_t one_pwritev2(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef ssize_t one_getrandom(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef ssize_t one_vmsplice(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef ssize_t one_fread(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil
cdef ssize_t one_fwrite(call_t *c, void *at, size_t n, uint64_t done) noexcept nogil

ctypedef struct stream_call_t:
    call_t call
    FILE *stream
    const void *buffer
    uint64_t bytes
    fread_function fread
    fwrite_function fwrite

ctypedef stream_call_t *stream_call_p

cdef size_t stream_transfer(void *argument) noexcept nogil
cdef size_t stream_call(
    fread_function reader, fwrite_function writer, const void *buffer, size_t size, size_t n, FILE *stream, bint locked
) noexcept nogil
cdef ssize_t at_offset(int fd, const void *buffer, size_t n, long offset, bint out) noexcept nogil
cdef ssize_t vector_call(int fd, const iovec *vector, int count, bint out) noexcept nogil
cdef ssize_t vector_at_offset(int fd, const iovec *vector, int count, long offset, bint out) noexcept nogil
cdef ssize_t vector_with_flags(
    int fd, const iovec *vector, int count, long offset, int flags, bint out) noexcept nogil

cdef ssize_t our_read(int fd, void *buffer, size_t n) noexcept nogil
cdef ssize_t our_write(int fd, const void *buffer, size_t n) noexcept nogil
cdef ssize_t our_pread(int fd, void *buffer, size_t n, long offset) noexcept nogil
cdef ssize_t our_pread64(int fd, void *buffer, size_t n, long offset) noexcept nogil
cdef ssize_t our_pwrite(int fd, const void *buffer, size_t n, long offset) noexcept nogil
cdef ssize_t our_pwrite64(int fd, const void *buffer, size_t n, long offset) noexcept nogil
cdef ssize_t our_readv(int fd, const iovec *vector, int count) noexcept nogil
cdef ssize_t our_writev(int fd, const iovec *vector, int count) noexcept nogil
cdef ssize_t our_preadv(int fd, const iovec *vector, int count, long offset) noexcept nogil
cdef ssize_t our_preadv64(int fd, const iovec *vector, int count, long offset) noexcept nogil
cdef ssize_t our_pwritev(int fd, const iovec *vector, int count, long offset) noexcept nogil
cdef ssize_t our_pwritev64(int fd, const iovec *vector, int count, long offset) noexcept nogil
cdef ssize_t our_preadv2(int fd, const iovec *vector, int count, long offset, int flags) noexcept nogil
cdef ssize_t our_preadv64v2(int fd, const iovec *vector, int count, long offset, int flags) noexcept nogil
cdef ssize_t our_pwritev2(int fd, const iovec *vector, int count, long offset, int flags) noexcept nogil
cdef ssize_t our_pwritev64v2(int fd, const iovec *vector, int count, long offset, int flags) noexcept nogil
cdef ssize_t our_getrandom(void *buffer, size_t n, unsigned int flags) noexcept nogil
cdef int our_getentropy(void *buffer, size_t n) noexcept nogil
cdef ssize_t our_vmsplice(int fd, const iovec *vector, size_t count, unsigned int flags) noexcept nogil
cdef size_t our_fread(void *buffer, size_t size, size_t n, FILE *stream) noexcept nogil
cdef size_t our_fread_unlocked(void *buffer, size_t size, size_t n, FILE *stream) noexcept nogil
cdef size_t our_fwrite(const void *buffer, size_t size, size_t n, FILE *stream) noexcept nogil
cdef size_t our_fwrite_unlocked(const void *buffer, size_t size, size_t n, FILE *stream) noexcept nogil
cdef ssize_t our_read_chk(int fd, void *buffer, size_t n, size_t room) noexcept nogil
cdef ssize_t our_pread_chk(int fd, void *buffer, size_t n, long offset, size_t room) noexcept nogil
cdef ssize_t our_pread64_chk(int fd, void *buffer, size_t n, long offset, size_t room) noexcept nogil
cdef size_t our_fread_chk(void *buffer, size_t room, size_t size, size_t n, FILE *stream) noexcept nogil
cdef size_t our_fread_unlocked_chk(void *buffer, size_t room, size_t size, size_t n, FILE *stream) noexcept nogil
cdef bint items_in_arena(const void *buffer, size_t size, size_t n) noexcept nogil
