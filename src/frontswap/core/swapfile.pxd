from frontswap.core.layout cimport area_t, context_t, pager_t
from frontswap.core.uapi cimport int64_t, uint8_t, uint32_t, uint64_t

cdef int64_t slot_take(pager_t *pg, bint cleaning) noexcept nogil
cdef bint swap_tight(pager_t *pg) noexcept nogil
cdef int disk_rests(pager_t *pg) noexcept nogil
cdef int slot_write(pager_t *pg, int64_t slot, const void *data, uint32_t length) noexcept nogil
cdef int slot_read(pager_t *pg, int64_t slot, uint32_t offset, void *into, uint32_t length) noexcept nogil
cdef int swap_reserve(pager_t *pg, int64_t allocated, int64_t budget) noexcept nogil
cdef int swap_grow(pager_t *pg, uint32_t slots) noexcept nogil
cdef int back_slots(pager_t *pg, int fd, uint32_t start, uint32_t end) noexcept nogil
cdef int fill_slots(pager_t *pg, int fd, int64_t at, int64_t stop) noexcept nogil
cdef void slots_add(pager_t *pg, uint32_t slots) noexcept nogil
cdef int swap_file_make(pager_t *pg, uint32_t slots, int *made) noexcept nogil
cdef int unnamed_file(const char *directory) noexcept nogil
cdef int file_place(pager_t *pg) noexcept nogil
cdef bint file_used(pager_t *pg, int file) noexcept nogil
cdef uint32_t slots_for(pager_t *pg, int64_t allocated, int64_t budget) noexcept nogil

cdef int area_slot_write(
    area_t *area, context_t *ctx, uint32_t offset, const uint8_t *data, uint32_t size) noexcept nogil
cdef int area_slot_read(area_t *area, context_t *ctx, uint32_t offset, uint8_t *into, uint32_t size) noexcept nogil
cdef int area_slot_zero(area_t *area, context_t *ctx, uint32_t offset, uint32_t size) noexcept nogil
cdef int write_all(int fd, const void *data, uint32_t length, int64_t at) noexcept nogil
cdef int read_all(int fd, void *into, uint32_t length, int64_t at) noexcept nogil
cdef int write_out(int fd, int64_t at, uint32_t length) noexcept nogil
