from frontswap.core.layout cimport pager_t, record_t
from frontswap.core.uapi cimport int64_t, uint8_t, uint32_t

cdef int64_t clean_ram(pager_t *pg) noexcept nogil
cdef int clean_disk(pager_t *pg) noexcept nogil

cdef int64_t segment_clean(pager_t *pg, uint32_t number) noexcept nogil
cdef record_t *record_claim(
    pager_t *pg, uint32_t number, uint8_t *data, uint32_t fill, uint32_t *at, uint32_t *state) noexcept nogil
cdef int64_t records_move(pager_t *pg, uint32_t number, uint8_t *data, int stream) noexcept nogil
cdef uint32_t emptiest(pager_t *pg, uint32_t state) noexcept nogil
