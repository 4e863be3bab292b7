from frontswap.core.layout cimport brake_t, pager_t, source_t
from frontswap.core.uapi cimport int32_t, int64_t

cdef enum:
    CALLED_BY_PSI = 1         # brake_t.called_by: triggers that the kernel has taken
    CALLED_BY_LEVEL = 2       # cgroup v1's memory.pressure_level

cdef int64_t UNKNOWN          # what a file says that says nothing

cdef void brake_stop(pager_t *pg) noexcept nogil
cdef void brake_forked(pager_t *pg) noexcept nogil
cdef void brake_set(pager_t *pg, const brake_t *wanted) noexcept nogil
cdef int64_t brake_turn(pager_t *pg) noexcept nogil

cdef int64_t cut_of(int64_t free, int64_t spare) noexcept nogil
cdef int32_t level_of(int64_t free, int64_t spare) noexcept nogil
cdef int64_t sum_of(const char *text, const char *names) noexcept nogil
cdef int64_t text_of(int fd, char *text, int64_t most) noexcept nogil
cdef int64_t source_free(source_t *s, int bound, int used, int free) noexcept nogil
cdef int kept_open(const char *path, int flags) noexcept nogil
cdef void kept_close(int *fd) noexcept nogil
cdef void brake_open(pager_t *pg) noexcept nogil
cdef void brake_close(pager_t *pg) noexcept nogil
cdef int psi_open(brake_t *b) noexcept nogil
cdef int level_open(brake_t *b) noexcept nogil
cdef bint brake_pull(pager_t *pg, int64_t cut) noexcept nogil
cdef void brake_tell(brake_t *b) noexcept nogil
cdef bint brake_heard(pager_t *pg, int timeout) noexcept nogil
cdef void *brake_thread(void *argument) noexcept nogil
