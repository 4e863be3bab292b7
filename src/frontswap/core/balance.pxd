from frontswap.core.layout cimport context_t, pager_t, segment_t
from frontswap.core.uapi cimport int64_t, uint32_t

cdef enum:                    # context_t.source: where the last load has found its record
    FROM_NOWHERE = 0
    FROM_POOL
    FROM_DISK

cdef enum:
    FEW = 128                 # bytes loaded per KiB of pages: a segment from which no more is loaded is cold

cdef int note_hit(pager_t *pg, uint32_t number, int64_t bytes) noexcept nogil
cdef void note_seal(pager_t *pg, segment_t *s) noexcept nogil
cdef void balance_note(pager_t *pg, context_t *ctx, int64_t bytes, int64_t away) noexcept nogil
cdef bint pool_has_room(pager_t *pg, int64_t bytes) noexcept nogil
cdef int64_t pool_wanted(pager_t *pg) noexcept nogil
cdef uint32_t coldest(pager_t *pg) noexcept nogil

cdef void note_move(pager_t *pg, segment_t *s, uint32_t number, uint32_t shift) noexcept nogil
cdef int64_t density(segment_t *s) noexcept nogil
cdef int64_t look(pager_t *pg) noexcept nogil
