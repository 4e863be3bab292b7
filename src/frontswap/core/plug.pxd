from frontswap.core.hooks cimport Hooks
from frontswap.core.uapi cimport uint32_t
from frontswap.policies.contract cimport Policy

cdef bint holds(void *of, uint32_t page) noexcept nogil
cdef void hit(void *of, uint32_t page) noexcept nogil
cdef void insert(void *of, uint32_t page) noexcept nogil
cdef uint32_t victim(void *of, uint32_t coming) noexcept nogil
cdef void remove(void *of, uint32_t page) noexcept nogil
cdef void resize(void *of, uint32_t capacity) noexcept nogil
cdef uint32_t count(void *of) noexcept nogil
