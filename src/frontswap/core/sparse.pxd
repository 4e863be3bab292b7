# Pages of which most elements are the same one, zero above all: the others, and where they are.
#
# Async-signal-safe: no malloc, no lock.

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    SPARSE_LOOKS = 7          # elements that are looked at for the one that most are
    SPARSE_SAME = 3           # of them that have to be it
    SPARSE_BLOCK = 32         # bytes that are looked at at once
    SPARSE_FAR = 255          # a gap of so many elements with none behind it that is another

# n bytes of elements of `typesize` bytes (4 or 8) to a record of at most `cap` bytes; its length, or 0: it does not
# fit. Needs n bytes of tmp.
#
# The record: a uint32, 2 * gaps + 1 if the element that most are is not zero; that element then; a byte for each gap, how
# many of it come before the next other one; and the others.
cdef uint32_t sparse_split(uint32_t typesize, const uint8_t *src, uint32_t n, uint8_t *tmp, uint8_t *dst,
                           uint32_t cap) noexcept nogil

# The inverse: `page` bytes at dst. 0, or -1: malformed, and dst is garbage.
cdef int sparse_join(uint32_t typesize, const uint8_t *src, uint32_t n, uint8_t *dst, uint32_t page) noexcept nogil
