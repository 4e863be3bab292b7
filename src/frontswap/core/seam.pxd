from frontswap.core.layout cimport pager_t
from frontswap.core.uapi cimport int32_t, int64_t, lock_t, siginfo_t, uint32_t, uint64_t

cdef enum:
    MAX_PAGERS = 64

cdef pager_t *pagers[MAX_PAGERS]
cdef uint64_t bases[MAX_PAGERS]
cdef uint64_t ends[MAX_PAGERS]
cdef int32_t taken[MAX_PAGERS]      # 0 free, 1 being written, 2 in use
cdef int64_t arenas_low              # no arena lies below, or at arenas_high or above; 0, 0: none
cdef int64_t arenas_high
cdef lock_t fork_lock                # held from the beginning of a fork to its end
cdef uint64_t last_lost
cdef uint64_t asked[64]               # by thread: see is_refused()
cdef uint64_t again_at               # written racily: two threads on two pages only start over
cdef uint64_t again_times
cdef int64_t again_since

cdef int seam_attach(pager_t *pg, int64_t limit_later) noexcept nogil
cdef int seam_claim(pager_t *pg, int64_t limit) noexcept nogil
cdef int64_t seam_limit_most(pager_t *pg) noexcept nogil
cdef void seam_closing(pager_t *pg) noexcept nogil
cdef void seam_detach(pager_t *pg) noexcept nogil
cdef void *handler_thread(void *argument) noexcept nogil

cdef pager_t *pager_of(uint64_t address) noexcept nogil
cdef bint touches_arena(uint64_t address, uint64_t n) noexcept nogil
cdef void widen(uint64_t low, uint64_t high) noexcept nogil
cdef bint is_ours(pager_t *pg, int number, const siginfo_t *info, void *context) noexcept nogil
cdef bint is_refused(uint64_t address, bint write) noexcept nogil
cdef void unresolved(int number, siginfo_t *info, void *context, uint64_t address, int result) noexcept nogil
cdef void on_fault(int number, siginfo_t *info, void *context) noexcept nogil
cdef int64_t mappings_for(int64_t limit, uint32_t page) noexcept nogil
cdef int64_t mappings_left(pager_t *pg) noexcept nogil
cdef int claim_mappings(pager_t *pg, int64_t limit) noexcept nogil
cdef void out_of_memory_message(pager_t *pg, int result) noexcept nogil
cdef void unserviceable(pager_t *pg, uint64_t address, int thread, int result, int times) noexcept nogil
cdef void stray(pager_t *pg, uint64_t address, int times) noexcept nogil
cdef void shut(pager_t *pg, uint64_t address, int times) noexcept nogil
cdef void again(uint64_t address) noexcept nogil
cdef void store_lost(uint64_t address) noexcept nogil

cdef inline bint in_arena(const void *address, uint64_t n) noexcept nogil:
    """True if some of these bytes lie in an arena. Two compares if none can."""
    return <int64_t>address < arenas_high and touches_arena(<uint64_t>address, n)
