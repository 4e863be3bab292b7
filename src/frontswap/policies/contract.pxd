from libc.stdint cimport uint8_t, uint32_t

from frontswap.policies.arrays cimport octets, words

cdef uint8_t OUT

cdef class Lists:
    cdef readonly uint32_t pages
    cdef uint32_t count           # pages held: in lists that are none of ghosts
    cdef uint8_t ghosts           # the number of the first list of ghosts
    cdef uint8_t *place           # of each page: its list, or OUT
    cdef uint32_t *older          # of each page in a list, and of the end of each list (pages + its number)
    cdef uint32_t *newer
    cdef uint32_t *length         # of each list
    cdef object kept              # the arrays behind the pointers

    cdef bint holds(self, uint32_t page) noexcept nogil
    cdef void push(self, uint8_t number, uint32_t page) noexcept nogil
    cdef void unlink(self, uint32_t page) noexcept nogil
    cdef uint32_t oldest(self, uint8_t number) noexcept nogil

cdef class Policy(Lists):
    cdef readonly uint32_t capacity
    cdef uint32_t nobody          # no page: one past the last

    cdef void on_hit(self, uint32_t page) noexcept nogil
    cdef void on_insert(self, uint32_t page) noexcept nogil
    cdef uint32_t on_victim(self, uint32_t coming) noexcept nogil
    cdef void on_remove(self, uint32_t page) noexcept nogil
    cdef void on_resize(self, uint32_t capacity) noexcept nogil
