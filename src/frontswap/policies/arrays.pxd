from libc.stdint cimport uint8_t, uint32_t

cdef uint32_t *words(object array) except? NULL
cdef uint8_t *octets(object array) except? NULL
